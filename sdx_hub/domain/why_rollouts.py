"""What rollouts add to why a device is or is not updating: its place in them, and what holds it there."""

from collections.abc import Iterable
from datetime import datetime

from sdx_hub.domain.answers import Answer
from sdx_hub.domain.rollout.explaining_members import of_member
from sdx_hub.domain.rollout.left_out import of_left_out
from sdx_hub.domain.rollout.standing import DeviceRollouts, Membership, Pin
from sdx_hub.domain.rollout.states import BACK, BAD, ENDED, IN_FLIGHT

_IDLE = ("up_to_date", "not_assigned")
_DECISIVE = (*BAD, "off_duty", "revert_failed")
"""Members' states that say more than the device's own action does."""
_ORDER = (*IN_FLIGHT, *BACK, *_DECISIVE, "queued", "pinned", "skipped", "withdrawn", "superseded", "committed")
_HISTORY = (*BAD, *BACK, "withdrawn")
"""What a rollout that is over still explains."""


def with_rollouts(base: Answer, name: str, found: DeviceRollouts, now: datetime) -> Answer:
    """Say the same with the device's rollouts.

    Args:
        base: What the device's own assignment and reports say.
        name: The device, for commands.
        found: Its places.
        now: UTC.

    Returns:
        Of several rollouts the one comes first that has the device under way, then what failed, then the next one. The
        verdict is one more of `planned` and `pinned`.
    """
    verdict, reasons, changes = base.verdict, list(base.reasons), list(base.changes)
    for membership in reversed(_telling(found.rollouts)):
        answer, state = of_member(membership, now), membership.member.state
        reasons = [*answer.reasons, *reasons]
        if state in IN_FLIGHT:
            changes = [*changes, *answer.changes]
            continue
        if state == "queued":
            verdict = "planned" if answer.verdict == "planned" else "waiting"
            # Assigning by hand what a rollout is about to offer would only get in its way.
            changes = list(answer.changes)
        elif state in _DECISIVE:
            verdict, changes = answer.verdict, [*answer.changes, *changes]
        else:
            changes = [*answer.changes, *changes]
    for each in found.left_out:
        answer = of_left_out(each, name)
        # A pin is told with its reason below.
        if each.code != "pinned":
            reasons, changes = [*reasons, *answer.reasons], [*changes, *answer.changes]
        if answer.verdict == "planned" and verdict in _IDLE:
            verdict = "planned"
    if found.pin is not None:
        reasons.insert(0, _pinned(found.pin))
        changes.insert(0, f"sdx device unpin {name}")
        verdict = verdict if verdict == "updating" else "pinned"
    return Answer(verdict, tuple(dict.fromkeys(reasons)), tuple(dict.fromkeys(changes)))


def _telling(memberships: Iterable[Membership]) -> list[Membership]:
    """Those that explain something now: of rollouts that go on; else the newest one that went wrong."""
    found = list(memberships)
    live = [each for each in found if each.rollout.state not in ENDED]
    if live:
        return sorted(
            live,
            key=lambda each: (_ORDER.index(each.member.state), not each.rollout.urgent, -each.rollout.priority),
        )
    newest = found[0] if found else None
    return [newest] if newest is not None and newest.member.state in _HISTORY else []


def _pinned(pin: Pin) -> str:
    return f"{pin.pinned_by} pinned it on {pin.pinned_at:%Y-%m-%d}: {pin.reason} No rollout offers it anything."

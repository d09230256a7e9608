"""Why a device is or is not updating, and what would change it: the question that an operator has first.

Pure: what the hub shows of a device and its timeline goes in, sentences come out. The order of the rules is the order
in which things stand in the way: who may talk to the hub, its place in rollouts, what was assigned, whether the device
is heard, what the device itself says.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sdx_hub.domain.answers import Answer, span
from sdx_hub.domain.device_codes import HELPS
from sdx_hub.domain.rollout.standing import NOWHERE, DeviceRollouts
from sdx_hub.domain.why_rollouts import with_rollouts

SILENT_AFTER = timedelta(minutes=10)
"""A device that is quiet for so long is probably off or out of reach: several times the usual poll interval."""

_STATES = {
    "IDLE": ("It has not taken the instruction up yet.", "Its next poll."),
    "OFFERED": ("It checks the instruction against both repositories.", "Wait a moment."),
    "DOWNLOADING": ("It downloads.", "A better link, a larger byte budget, or time."),
    "VERIFIED": ("Everything is downloaded and verified.", "Wait a moment."),
    "READY": (
        "Everything is ready; the flight gate holds it back.",
        "The craft has to be safe to update: landed, disarmed, charged, no operator hold.",
    ),
    "INSTALLING": ("It writes the inactive slot.", "Wait a moment."),
    "SWITCHED": ("It has switched, and starts the new version.", "Wait a moment."),
    "TRIAL": ("It runs the new version on trial.", "The trial's time; it commits by itself if it stays healthy."),
    "COMMITTED": ("It has committed the new version.", "Its result arrives with its next report."),
    "ROLLING_BACK": ("The trial failed, and it goes back.", "Its result arrives with its next report."),
}
_AGAIN = "When the cause is gone: sdx device assign {release} {device}. It is tried once more."


def explain(
    device: Mapping[str, Any],
    timeline: Sequence[Mapping[str, Any]],
    now: datetime,
    rollouts: DeviceRollouts = NOWHERE,
) -> Answer:
    """Say why the device is where it is.

    Args:
        device: As the API shows it.
        timeline: Its newest events, newest first.
        now: UTC.
        rollouts: Its places in rollouts.

    Returns:
        The verdict is `up_to_date`, `updating`, `waiting`, `planned`, `pinned`, `failed`, `not_assigned`, `pending` or
        `revoked`.
    """
    name = str(device.get("serial") or device.get("id"))
    if device.get("state") == "pending":
        return Answer(
            "pending",
            (f"{name} enrolled without a token and waits for a person.",),
            (f"Compare its key {device.get('device_key')} with the device, then: sdx device accept {name}",),
        )
    if device.get("state") == "revoked":
        return Answer(
            "revoked",
            (f"{name} was revoked: the hub refuses its polls.",),
            ("A repaired device enrols again, with a new key and a new token: sdx device token",),
        )
    return with_rollouts(_by_itself(device, timeline, now, name), name, rollouts, now)


def _by_itself(device: Mapping[str, Any], timeline: Sequence[Mapping[str, Any]], now: datetime, name: str) -> Answer:
    """What its assignment and its reports say."""
    assigned: Mapping[str, str] = device.get("assignments") or {}
    action: Mapping[str, Any] = device.get("action") or {}
    seen, silent = _seen(device.get("last_seen_at"), now)
    if not assigned:
        reason = "Nothing is assigned to it."
        if action.get("state") == "cancelled" and action.get("code"):
            reason = f"Nothing is assigned to it any more ({action['code']})."
        return Answer("not_assigned", (reason, seen), (f"sdx device assign PRODUCT@VERSION {name}",))
    state = str(action.get("state") or "")
    wanted = ", ".join(sorted(assigned.values()))
    if state in {"open", ""}:
        return _open(device, timeline, wanted, (seen, silent))
    if state == "success":
        behind = _differences(device, assigned)
        if not behind:
            return Answer("up_to_date", (f"It runs what is assigned: {wanted}.", seen))
        return Answer(
            "failed",
            (f"It reported success for {wanted}, but its inventory says otherwise: {'; '.join(behind)}.", seen),
            (f"sdx device inventory {name}; then assign again.",),
        )
    code = str(action.get("code") or "")
    said = f" ({code})" if code else ""
    detail = f" {action['detail']}" if action.get("detail") else ""
    ended = {
        "rolled_back": f"{wanted} was installed, was not healthy, and was rolled back{said}.{detail}",
        "refused": f"It refused {wanted}{said}.{detail}",
        "cancelled": f"The update to {wanted} was cancelled{said}.{detail}",
    }.get(state, f"The update to {wanted} failed{said}.{detail}")
    again = _AGAIN.format(release=sorted(assigned.values())[0], device=name)
    changes = (HELPS[code],) if code in HELPS else ()
    if state == "rolled_back":
        changes = ("Publish a corrected release: this one's payload is remembered as bad on the device.", *changes)
    return Answer("failed", (ended, _running(device), seen), (*changes, again))


def _open(
    device: Mapping[str, Any], timeline: Sequence[Mapping[str, Any]], wanted: str, heard: tuple[str, bool]
) -> Answer:
    seen, silent = heard
    action: Mapping[str, Any] = device.get("action") or {}
    progress = next(
        (
            event["detail"]
            for event in timeline
            if event.get("kind") == "progress" and (event.get("detail") or {}).get("action") == action.get("id")
        ),
        None,
    )
    reached = str(progress.get("state")) if progress else "IDLE"
    what, change = _STATES.get(reached, (f"It is in the state {reached}.", "Its next report."))
    reasons = [f"{wanted} is assigned. {what}"]
    if progress and progress.get("code"):
        reasons.append(f"It says: {progress['code']} {progress.get('detail') or ''}".rstrip() + ".")
    changes = [HELPS[str(progress.get("code"))]] if progress and progress.get("code") in HELPS else []
    if silent:
        reasons.insert(0, seen)
        return Answer(
            "waiting", tuple(reasons), ("It has to be on and reach the hub: check power, link and agent.", *changes)
        )
    verdict = "waiting" if reached == "READY" or (progress and progress.get("code")) else "updating"
    return Answer(verdict, (*reasons, seen), (*changes, change))


def _seen(text: object, now: datetime) -> tuple[str, bool]:
    if not text:
        return "It has never polled since it enrolled.", True
    then = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    ago = max(timedelta(), now - then)
    return f"It was last seen {span(ago)} ago.", ago > SILENT_AFTER


def _differences(device: Mapping[str, Any], assigned: Mapping[str, str]) -> list[str]:
    found = []
    for product, release in sorted(assigned.items()):
        version = release.partition("@")[2]
        running = {part["version"] for part in device.get("components") or () if part.get("product") == product}
        if running and running != {version}:
            found.append(f"{product} runs {', '.join(sorted(running))}, assigned is {version}")
    return found


def _running(device: Mapping[str, Any]) -> str:
    running = sorted({f"{part['product']}@{part['version']}" for part in device.get("components") or ()})
    return f"It runs {', '.join(running)}." if running else "It has told of nothing that it runs."

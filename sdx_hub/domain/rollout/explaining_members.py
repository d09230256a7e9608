"""Why a device of a rollout is where it is, and what would change it. Pure: standings in, sentences out."""

from collections.abc import Mapping
from datetime import datetime

from sdx_hub.domain.answers import Answer, span
from sdx_hub.domain.device_codes import HELPS
from sdx_hub.domain.rollout import left_out
from sdx_hub.domain.rollout.explaining import devices, of_rollout, words_of
from sdx_hub.domain.rollout.standing import Member, Membership
from sdx_hub.domain.rollout.states import BAD, ENDED, OUT

_RETRY = "When the cause is gone: {again}"
_SOON = "Its reports. Not heard for {silent_after}, it counts as silent."

_STATES: Mapping[str, tuple[str, str, str]] = {
    "queued": ("planned", "{id} will offer {serial} {release} in wave {its_wave} of {waves}.", ""),
    "offered": ("updating", "{id} offered it {offered} in wave {its_wave}; it has said nothing of it yet.", _SOON),
    "downloading": ("updating", "It downloads {offered}, which {id} offered it in wave {its_wave}.", _SOON),
    "verified": ("updating", "It has downloaded and verified {offered}, which {id} offered it.", _SOON),
    "waiting": (
        "waiting",
        "It has {offered} of {id} ready and waits for the ground: its flight gate is closed.",
        "The craft has to be safe to update: landed, disarmed, charged, no operator hold.",
    ),
    "installing": ("updating", "It installs {offered}, which {id} offered it in wave {its_wave}.", _SOON),
    "trial": (
        "updating",
        "It runs {offered} of {id} on trial.",
        "The trial's time; it commits by itself if it stays healthy.",
    ),
    "committed": ("updated", "It has committed {offered}, which {id} offered it in wave {its_wave}.", ""),
    "rolled_back": (
        "failed",
        "It installed {offered} of {id}, was not healthy with it, and went back.",
        "A corrected release, in a rollout of its own: the device remembers this payload as bad.",
    ),
    "failed": ("failed", "It could not install {offered} of {id}.", _RETRY),
    "refused": ("failed", "It refused {offered} of {id}.", _RETRY),
    "silent": (
        "failed",
        "It heard the offer of {offered} by {id}, and was not heard again for {silent_after}.",
        "It has to be on and reach the hub: check power, link and agent. As soon as it is heard, it counts as it is.",
    ),
    "lost": (
        "failed",
        "It was not heard again after it had begun to switch to {offered} of {id}.",
        "It has to be looked at where it is: power, link, boot. As soon as it is heard, it counts as it is.",
    ),
    "off_duty": (
        "waiting",
        "It has not polled since {id} offered it {offered}: it is off. Nothing waits for it.",
        "The offer stays open: it takes it when it is on again.",
    ),
    "superseded": (
        "superseded",
        "It was assigned something else before {offered} of {id} was through.",
        "To offer it again: {again}",
    ),
    "withdrawn": (
        "withdrawn",
        "{id} offered it {offered}, and took the offer back: it is to run {previous} again.",
        "To offer it again: {resumed}",
    ),
    "pinned": (
        "pinned",
        "It is pinned: {id} leaves it out.",
        "sdx device unpin {serial}. A rollout that still goes on then queues it again by itself.",
    ),
    "skipped": (
        "skipped",
        "It was left out of {id}.",
        "To take it in again: {again}",
    ),
    "reverting": ("updating", "{id} brings it back to {previous}.", "Its reports."),
    "reverted": ("reverted", "{id} brought it back to {previous}.", ""),
    "revert_failed": (
        "failed",
        "{id} could not bring it back to {previous}.",
        "Look at the device: sdx device why {serial}. A release with a larger counter can always be assigned.",
    ),
}
"""By state of the member: verdict, sentence, what would change it."""

_CODES: Mapping[str, tuple[str, str]] = {
    "must_pass_done": ("It has installed {offered}, which has to come before {release}.", ""),
    "urgent_lane": ("An urgent rollout took its turn; afterwards it has its old place again.", ""),
    "lost_contact": ("The last that was heard of it was that it installs.", ""),
    "revert_not_allowed": (
        "It has committed {release}, whose signed manifest allows no way back to {previous}.",
        "Publish a release with a larger counter: it is the only way on.",
    ),
    "previous_not_published": ("It has committed {release}, and {previous} is not published any more.", ""),
    "nothing_before": ("Nothing of the product was known of it before.", ""),
    "is_back": ("Its offer had been taken back before.", ""),
    "device_pinned": ("It is pinned to what it has committed.", "sdx device unpin {serial}"),
    "device_revoked": ("It was revoked: nothing is told to it any more.", ""),
    "assigned_otherwise": ("It is to run what it was assigned since.", ""),
    "rollout_halted": ("The rollout was halted.", ""),
    "rollout_cancelled": ("The rollout was cancelled.", ""),
    "rollout_reverting": ("Another rollout of the same release was reverted.", ""),
    "retried": ("A person had it tried again.", ""),
    "resumed": ("Its offer was taken back, and the rollout was resumed.", ""),
    "unpinned": ("It was pinned, and is not any more.", ""),
    "by_person": ("A person said so.", ""),
    "heard_again": ("It was off, and has polled again since.", ""),
    # These say no more than the state does.
    "off_duty": ("", ""),
    "silent": ("It was not heard for {silent_after}.", ""),
    "pinned": ("", ""),
    "trial_starts_used_up": ("It did not stay up on trial, again and again.", ""),
}
"""Codes that the hub gives, or that weigh more: a sentence, and what helps."""

_INSTEAD: Mapping[tuple[str, str], str] = {
    ("reverted", "assigned_otherwise"): "{id} was reverted, and left it alone.",
    ("reverted", "nothing_before"): "{id} was reverted: {offered} is not assigned to it any more.",
}
"""What is said in place of the state's sentence, by state and code."""

_HOLDS: Mapping[str, tuple[str, str]] = {
    "other_rollout": ("{hold} has it first: one update at a time on a device.", "The end of its update in {hold}."),
    "site_limit": (
        "{id} has {hold_devices} under way at the site {hold}, and no more of them may share its link.",
        "The next one there that ends makes room.",
    ),
}


def of_member(membership: Membership, now: datetime) -> Answer:
    """Say where a device is in a rollout.

    Args:
        membership: Its place, and what holds it.
        now: UTC.

    Returns:
        The verdict is `planned`, `updating`, `waiting`, `updated`, `failed`, `superseded`, `withdrawn`, `pinned`,
        `skipped` or `reverted`.
    """
    rollout, member = membership.rollout, membership.member
    words = words_of(rollout) | _words(membership)
    verdict, sentence, change = _STATES[member.state]
    sentence = _INSTEAD.get((member.state, member.code), sentence)
    more, helps = _of_code(member)
    reasons, changes = (
        [each.format_map(words) for each in part if each] for part in ((sentence, more), (helps, change))
    )
    if member.detail:
        reasons.append(f"It says: {member.detail}")
    if member.since is not None:
        reasons.append(f"That was {span(now - member.since)} ago, at attempt {member.attempt}.")
    if member.state in BAD:
        reasons.append(f"It counts against {rollout.release}.")
    if member.state == "queued":
        verdict, more_reasons, more_changes = _turn(membership, words)
        reasons[1:1], changes = more_reasons, [*more_changes, *changes]
    return Answer(verdict, tuple(reasons), tuple(changes))


def _of_code(member: Member) -> tuple[str, str]:
    """What its code adds: a sentence, and what helps."""
    if member.code in _CODES:
        return _CODES[member.code]
    if member.state in OUT and member.code in left_out.CODES:
        # It could not have the release any more when its turn came.
        return left_out.CODES[member.code]
    return ("The code is {code}.", HELPS.get(member.code, "")) if member.code else ("", "")


def _turn(membership: Membership, words: Mapping[str, object]) -> tuple[str, list[str], list[str]]:
    """Why a queued member has not been offered anything: what stands before it, the rollout or its own turn."""
    rollout, member = membership.rollout, membership.member
    above = of_rollout(rollout)
    if rollout.state != "running":
        return above.verdict, list(above.reasons), list(above.changes)
    if member.wave > rollout.wave:
        before = f"Wave {rollout.wave} comes first." if rollout.wave else "No wave is open yet."
        return "planned", [before, *above.reasons[1:]], list(above.changes)
    if membership.hold is not None:
        because, change = _HOLDS[membership.hold.by]
        return "waiting", [because.format_map(words)], [change.format_map(words)]
    if rollout.waits_for:
        return "waiting", list(above.reasons[1:]), list(above.changes)
    return "planned", ["Its wave is open, and its turn is next."], ["Wait a moment."]


def _words(membership: Membership) -> dict[str, object]:
    rollout, member, hold = membership.rollout, membership.member, membership.hold
    serial = member.serial or member.device
    by_hand = rollout.state in ENDED
    again = f"sdx device assign {rollout.release} {serial}" if by_hand else f"sdx rollout retry {rollout.id} {serial}"
    return {
        "serial": serial,
        "again": again,
        # Resuming a halted rollout queues all of these again.
        "resumed": f"sdx rollout resume {rollout.id}" if rollout.state == "halted" else again,
        "its_wave": member.wave,
        "offered": member.offered or "the release",
        "previous": member.previous or "what it had, without an assignment",
        "code": member.code,
        "hold": hold.what if hold else "",
        "hold_devices": devices(hold.devices) if hold else "",
    }

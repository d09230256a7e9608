"""Why a rollout or one of its waves is where it is, and what would change it. Pure: standings in, sentences out."""

from collections.abc import Mapping
from datetime import timedelta

from sdx_hub.domain.answers import Answer, span
from sdx_hub.domain.rollout.standing import Standing, WaveStanding
from sdx_hub.domain.rollout.states import BAD, ENDED, GOOD, IN_FLIGHT

_EVIDENCE = "Look at every decision and what it was made of: sdx rollout evidence {id}"
_RESUME = "When the failures so far are explained and accepted: sdx rollout resume {id} --reason TEXT"
_REVERT = "To bring every touched device back to what it had: sdx rollout revert {id} --reason TEXT"
_ADVANCE = "To go on without waiting: sdx rollout advance {id} --reason TEXT"

_WAITS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "": ("It offers {release} to the devices of wave {wave}.", ("Nothing has to be done.",)),
    "outcomes": (
        "It waits for what is under way: {flying}.",
        ("Their reports. A device that is not heard for {silent_after} ends as silent, so this does not last.",),
    ),
    "quorum": (
        "Too few devices of wave {wave} have committed, and none is under way any more.",
        ("To offer it again to those that failed: sdx rollout retry {id}", _ADVANCE),
    ),
    "soak_time": ("Wave {wave} is watched for a while before the next one opens.", ("Time.", _ADVANCE)),
    "soak_use": (
        "The devices of wave {wave} have not been used enough with {release} yet.",
        ("Flights and running hours that they report.", _ADVANCE),
    ),
    "window": (
        "No window is open: new offers are made in its windows alone.",
        ("The next window. What cannot wait goes by the urgent lane: sdx rollout start {release} --urgent REASON",),
    ),
    "person": ("It waits for a person.", (_EVIDENCE, _RESUME, _REVERT)),
    "limit": (
        "As many devices are under way as it may have at once: {flying}.",
        ("The next one that ends makes room.",),
    ),
}
"""By `waits_for` of the decision."""

_STATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "approval": (
        "{id} waits for a second person: {created_by} ordered it.",
        ("Somebody else than {created_by}, who may approve: sdx rollout approve {id}",),
    ),
    "preparing": (
        "The list of the devices of {id} is being written.",
        ("It opens its first wave by itself when the list is whole.",),
    ),
    "running": ("{id} is in wave {wave} of {waves}.", ()),
    "paused": (
        "{id} is paused in wave {wave} of {waves}: it offers nothing new, and what is under way goes on.",
        (_EVIDENCE, _RESUME, _REVERT),
    ),
    "halted": (
        "{id} is halted in wave {wave} of {waves}: its open offers are taken back.",
        (_EVIDENCE, _REVERT, "A person who may approve can resume it: sdx rollout resume {id} --reason TEXT"),
    ),
    "reverting": (
        "{id} brings its devices back to what they had: {back} back, {going_back} on the way, {not_back} not.",
        ("The reports of those that are on the way. One that is not heard any more ends as not back.",),
    ),
    "reverted": (
        "{id} was reverted: {back} back, {not_back} not.",
        ("A corrected release needs a rollout of its own: sdx rollout start R",),
    ),
    "finished": ("{id} is finished: {good} of {all} have committed {release}.", ()),
    "cancelled": (
        "{id} was cancelled in wave {wave} of {waves}: {good} that have committed {release} keep it.",
        ("To begin again: sdx rollout start {release}", "To bring them back: sdx rollout revert {id}"),
    ),
}
"""By state of the rollout."""

_CODES: Mapping[str, str] = {
    "gate_paused": "The gate paused it: so many failures are hardly chance any more.",
    "gate_halted": "The gate halted it: so many failures are no chance.",
    "critical_outcome": "A critical outcome paused it: the first one is one too many.",
    "release_not_published": "{release} is not published any more.",
}
"""Why the engine stopped it, before the sentence that it wrote then."""


def of_rollout(standing: Standing) -> Answer:
    """Say where a rollout is and what it waits for.

    Returns:
        The verdict is the state, or `waiting` for a running one that something holds up.
    """
    words = words_of(standing)
    reasons, changes = [], []
    sentence, helps = _STATES[standing.state]
    reasons.append(sentence.format_map(words))
    changes += [each.format_map(words) for each in helps]
    if standing.state == "running":
        waits, helps = _WAITS[standing.waits_for]
        reasons.append(waits.format_map(words))
        changes += [each.format_map(words) for each in helps]
    elif standing.code in _CODES:
        reasons.append(_CODES[standing.code].format_map(words))
    # The reason that is stored says how it came into its state; what a running one does now is told apart.
    said = standing.sentence if standing.state == "running" else standing.reason or standing.sentence
    reasons += [said] if said else []
    if standing.state == "finished" and (bad := sum(standing.members.get(each, 0) for each in BAD)):
        reasons.append(f"{devices(bad)} did not take it.")
        changes.append(f"Who and why: sdx rollout evidence {standing.id}; one device: sdx device why D")
    verdict = "waiting" if standing.state == "running" and standing.waits_for else standing.state
    return Answer(verdict, tuple(reasons), tuple(changes))


def of_wave(standing: Standing, wave: WaveStanding) -> Answer:
    """Say where a wave is.

    Returns:
        The verdict is `closed`, `planned`, `ended` for one that never opened in a rollout that is over, or that of the
        rollout for the open one.
    """
    whom = f"Wave {wave.wave} of {standing.id} ({wave.label}) has {devices(wave.size)}"
    if wave.closed_at is not None:
        good, bad = _count(wave.members, GOOD), _count(wave.members, BAD)
        return Answer("closed", (f"{whom} and is closed: {good} committed, {bad} failed.",))
    above = of_rollout(standing)
    if wave.opened_at is not None:
        counted = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(wave.members.items()))
        return Answer(above.verdict, (f"{whom}: {counted or 'none yet'}.", *above.reasons), above.changes)
    if standing.state in ENDED:
        return Answer("ended", (f"{whom}. It never opened.", *above.reasons), above.changes)
    first = "It opens when the list of devices is whole." if wave.wave == 1 else f"It opens after wave {wave.wave - 1}."
    return Answer("planned", (f"{whom}. {first}", *above.reasons), above.changes)


def words_of(standing: Standing) -> dict[str, object]:
    """What sentences about a rollout may name."""
    counts = standing.members
    return {
        "id": standing.id,
        "release": standing.release,
        "wave": standing.wave,
        "waves": standing.wave_count,
        "created_by": standing.created_by,
        "silent_after": span(timedelta(seconds=standing.silent_after_s)),
        "flying": devices(_count(counts, IN_FLIGHT)),
        "good": _count(counts, GOOD),
        "all": devices(sum(counts.values())),
        "back": counts.get("reverted", 0),
        "going_back": counts.get("reverting", 0),
        "not_back": counts.get("revert_failed", 0),
    }


def devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _count(counts: Mapping[str, int], states: tuple[str, ...]) -> int:
    return sum(counts.get(state, 0) for state in states)

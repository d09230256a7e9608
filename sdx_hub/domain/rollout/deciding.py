"""What a rollout does next: facts in, a decision with its reasons out.

Rules, in this order; the first that applies decides:

    1  its release is not published any more        running, paused -> halted       halt_release
    2  e-value at or above `halt_at`                running, paused -> halted       halt_gate
    3  a critical outcome that nobody accepted      running -> paused               pause_critical
    4  e-value at or above `pause_at`               running -> paused               pause_gate
    5  the open wave is over, there is another      the next wave opens             open_wave
    6  the last wave is over                        running -> finished             finish
    7  every touched device is back, or given up    reverting -> reverted           revert_done
    8  otherwise                                    offers to `slots` members       go_on

What stops comes first, the stronger stop before the weaker: so a decision that was applied is not followed by
another one on the same facts, except that waves open one by one. A halt comes out of `paused` as well, because what
is under way there goes on and tells more. Nothing but a person leads out of `paused` and `halted` otherwise.
"""

from sdx_hub.domain.rollout import closing, counting, gate, windows
from sdx_hub.domain.rollout.facts import Decision, Facts, Reading, Rule, WaveFacts
from sdx_hub.domain.rollout.states import BAD, ENDED, GOOD
from sdx_hub.domain.rollout.words import clock, several, span

_STOPPABLE = ("running", "paused")
_TO_BRING_BACK = frozenset({*counting.UNDER_WAY, *GOOD, *BAD, "off_duty", "withdrawn", "reverting"})


def decide(facts: Facts) -> Decision:
    """Decide; the same facts always give the same decision."""
    outcomes, policy = counting.outcomes(facts), facts.order.gate
    reading = gate.read(outcomes, facts.strata, policy, facts.control, accepted=facts.accepted)
    if facts.state in _STOPPABLE and (stop := _stop(facts, reading)):
        return stop
    if facts.state == "running":
        return _run(facts, reading)
    if facts.state == "reverting":
        return _revert(facts, reading)
    return _stay(facts, reading)


def _stop(facts: Facts, reading: Reading) -> Decision | None:
    policy, seen = facts.order.gate, facts.critical
    if facts.release_state != "published":
        return _stopped(
            facts,
            reading,
            "halt_release",
            "release_not_published",
            f"{facts.order.release} is {facts.release_state} and not published: nothing more is offered, and open "
            "offers are taken back. Roll out another release, or revert this one.",
        )
    if reading.e_value >= policy.halt_at:
        return _stopped(
            facts,
            reading,
            "halt_gate",
            "gate_halted",
            f"{reading.sentence} Halted: open offers are taken back. A revert brings back what was installed; a "
            "resume, by another person, accepts these failures.",
        )
    if facts.state != "running":
        return None
    if seen.count > facts.accepted.critical:
        return _stopped(
            facts,
            reading,
            "pause_critical",
            "critical_outcome",
            f"{seen.device} ended with {seen.code}, which is critical: one is enough to pause. Look at the device; "
            "then resume, which accepts it, or halt or revert.",
        )
    if reading.e_value >= policy.pause_at:
        return _stopped(
            facts,
            reading,
            "pause_gate",
            "gate_paused",
            f"{reading.sentence} Paused: nothing more is offered, what is under way goes on. Look at the failures; "
            "then resume, which accepts them, or halt or revert.",
        )
    return None


def _stopped(facts: Facts, reading: Reading, rule: Rule, code: str, sentence: str) -> Decision:
    state = "halted" if rule.startswith("halt") else "paused"
    return Decision(rule, state, facts.wave, code, sentence, reading, waits_for="person")


def _run(facts: Facts, reading: Reading) -> Decision:
    following = next((wave for wave in facts.waves if wave.wave > facts.wave), None)
    current = next((wave for wave in facts.waves if wave.wave == facts.wave), None)
    hold = closing.held(facts, current) if current else None
    if hold:
        return _go_on(facts, reading, hold)
    if following:
        return _open(facts, reading, current, following)
    committed, members = counting.count(facts, GOOD), sum(tally.devices for tally in facts.tallies)
    return Decision(
        "finish",
        "finished",
        facts.wave,
        "all_done",
        f"All waves are closed: {committed} of {members} members run {facts.order.release}. {reading.sentence}",
        reading,
    )


def _open(facts: Facts, reading: Reading, current: WaveFacts | None, following: WaveFacts) -> Decision:
    before = ""
    if current:
        how = "was closed by a person" if current.closed_at else "is over"
        committed = counting.count(facts, GOOD, current.wave)
        before = f"{closing.name(current)} {how}: {committed} of {current.size} committed. {reading.sentence} "
    slots, waits_for, why = _offers(facts, following.wave)
    return Decision(
        "open_wave",
        facts.state,
        following.wave,
        "",
        f"{before}{closing.name(following)} opens, with {several(following.size, 'member')}. {why}".rstrip(),
        reading,
        slots,
        waits_for,
    )


def _go_on(facts: Facts, reading: Reading, hold: closing.Held) -> Decision:
    slots, waits_for, why = _offers(facts, facts.wave)
    if waits_for == "outcomes":  # Nothing is left to offer: what keeps the wave open is the answer.
        waits_for = hold.waits_for
    return Decision("go_on", facts.state, facts.wave, "", f"{why} {hold.sentence}".strip(), reading, slots, waits_for)


def _offers(facts: Facts, wave: int) -> tuple[int | None, str, str]:
    """How many devices may be offered the release now, what holds offers up, and that in words."""
    order = facts.order
    if not counting.count_through(facts, {"queued"}, wave):
        return 0, "outcomes", ""
    opened = tuple(map(windows.parse, order.windows))
    if not order.urgent and not windows.is_open(opened, facts.now):
        return 0, "window", f"Offers are made again at {clock(windows.next_open(opened, facts.now))}."
    if not order.limits.in_flight:
        return None, "", ""
    under_way = counting.count(facts, counting.UNDER_WAY)
    slots = max(0, order.limits.in_flight - under_way)
    if slots:
        return slots, "", ""
    return (
        0,
        "limit",
        f"{several(under_way, 'device')} under way, and {order.limits.in_flight:,} may be: one has to end first.",
    )


def _revert(facts: Facts, reading: Reading) -> Decision:
    pending = counting.count(facts, _TO_BRING_BACK)
    back, given_up = counting.count(facts, {"reverted"}), counting.count(facts, {"revert_failed"})
    counts = f"{back} are back, {given_up} were given up."
    if pending:
        return Decision(
            "go_on",
            facts.state,
            facts.wave,
            "",
            f"{several(pending, 'device')} on the way back; {counts} Each of them ends with its result, or "
            f"when it was not heard for {span(facts.order.silent_after_s or 0)}.",
            reading,
            waits_for="outcomes",
        )
    return Decision(
        "revert_done", "reverted", facts.wave, "all_back", f"No device is on its way back any more: {counts}", reading
    )


_STAYS = {
    "approval": ("person", "It waits for the approval of somebody who did not order it."),
    "preparing": ("preparing", "The list of its members is being written; then the first wave opens."),
    "paused": ("person", "It is paused: what is under way goes on. Somebody has to resume, halt or revert it."),
    "halted": ("person", "It is halted: nothing is offered. Somebody has to resume, revert or cancel it."),
    "reverted": ("", "It has ended: every touched device is back, or was given up."),
    "finished": ("", "It has ended: all waves are closed."),
    "cancelled": ("", "It has ended: somebody cancelled it."),
}


def _stay(facts: Facts, reading: Reading) -> Decision:
    waits_for, sentence = _STAYS[facts.state]
    if facts.state not in ENDED and reading.good + reading.bad:
        sentence = f"{sentence} {reading.sentence}"
    return Decision("go_on", facts.state, facts.wave, "", sentence, reading, waits_for=waits_for)

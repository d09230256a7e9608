"""Every rule of the engine: when it applies, what comes before it, and what it says."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sdx_hub.domain.rollout.accepting import accept, remaining
from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Accepted, Control, Critical, Decision, Facts, Tally, WaveFacts
from sdx_hub.domain.rollout.policy import Gate, Limits, Order, Soak

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
OPENED_AT = NOW - timedelta(days=1)
ENDED_AT = NOW - timedelta(hours=1)
ORDER: dict[str, Any] = {
    "release": "nav@2.0.0",
    "gate": Gate(base_rate=0.03),
    "soak": Soak(seconds=600),
    "silent_after_s": 3600,
}


def facts(members: dict[int, dict[str, int]], wave: int = 1, state: str = "running", **changed: Any) -> Facts:
    """A rollout of three waves; members by wave and state, all of one kind."""
    order = {name: changed.pop(name) for name in Order.__struct_fields__ if name in changed}
    of_wave = changed.pop("of_wave", {})
    waves = tuple(
        WaveFacts(
            number,
            label,
            sum(members.get(number, {}).values()),
            **{"opened_at": OPENED_AT, "closed_at": ENDED_AT} if number < wave else {},
            **{"opened_at": OPENED_AT, "last_ended_at": ENDED_AT, **of_wave} if number == wave else {},
        )
        for number, label in enumerate(("1", "50%", "100%"), 1)
    )
    tallies = tuple(
        Tally(number, 0, name, devices) for number, states in members.items() for name, devices in states.items()
    )
    known = {"now": NOW, "state": state, "wave": wave, "release_state": "published", "strata": {0: "quad"}} | changed
    return Facts(order=Order(**(ORDER | order)), waves=waves, tallies=tallies, **known)


def decided(*args: Any, **kwargs: Any) -> Decision:
    """The decision, which the log can repeat, and which is not followed by another one on the same facts."""
    made_of = facts(*args, **kwargs)
    decision = decide(made_of)
    again = msgspec.json.decode(msgspec.json.encode(made_of), type=Facts)
    assert again == made_of
    assert decide(again) == decision
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision
    assert decision.sentence.endswith(".")
    assert "  " not in decision.sentence
    if decision.rule != "open_wave":
        after = msgspec.structs.replace(made_of, state=decision.state, wave=decision.wave)
        assert decide(after).rule == "go_on"
    return decision


def brief(decision: Decision) -> tuple[str, str, int, int | None, str]:
    return decision.rule, decision.state, decision.wave, decision.slots, decision.waits_for


FRESH: dict[int, dict[str, int]] = {1: {"queued": 1}, 2: {"queued": 9}, 3: {"queued": 10}}


def test_the_first_wave_opens() -> None:
    decision = decided(FRESH, wave=0)
    assert brief(decision) == ("open_wave", "running", 1, None, "")
    assert decision.sentence == "Wave 1 (1) opens, with 1 member."


def test_offers_are_made_to_queued_members_of_open_waves_only() -> None:
    assert brief(decided(FRESH)) == ("go_on", "running", 1, None, "")
    nothing_left = decided(FRESH | {1: {"trial": 1}})
    assert brief(nothing_left) == ("go_on", "running", 1, 0, "outcomes")
    assert "waits for 1 under way" in nothing_left.sentence


def test_the_next_wave_opens_when_the_one_before_is_over() -> None:
    decision = decided(FRESH | {1: {"committed": 1}})
    assert brief(decision) == ("open_wave", "running", 2, None, "")
    assert decision.sentence == (
        "Wave 1 (1) is over: 1 of 1 committed. 1 clean install still allows a failure rate of 95 %. "
        "Wave 2 (50%) opens, with 9 members."
    )


@pytest.mark.parametrize("state", ["queued", "offered", "downloading", "verified", "waiting", "installing", "trial"])
def test_a_wave_waits_for_everybody_under_way(state: str) -> None:
    decision = decided({1: {"committed": 1}, 2: {"committed": 8, state: 1}, 3: {"queued": 10}}, wave=2)
    assert (decision.rule, decision.wave) == ("go_on", 2)


@pytest.mark.parametrize("state", ["off_duty", "pinned", "skipped", "superseded"])
def test_a_wave_does_not_wait_for_those_that_are_off_or_out(state: str) -> None:
    members = {1: {"committed": 1}, 2: {"committed": 5, state: 4}, 3: {"queued": 10}}
    assert decided(members, wave=2).rule == "open_wave"


@pytest.mark.parametrize("state", ["silent", "failed", "rolled_back"])
def test_one_failure_of_many_does_not_hold_a_wave(state: str) -> None:
    assert decided({1: {"committed": 30}, 2: {"committed": 29, state: 1}, 3: {"queued": 10}}, wave=2).rule == (
        "open_wave"
    )


def test_too_few_committed() -> None:
    decision = decided({1: {"committed": 1}, 2: {"committed": 4, "off_duty": 5}, 3: {"queued": 10}}, wave=2)
    assert brief(decision) == ("go_on", "running", 2, 0, "quorum")
    assert "needs 5 of 9 committed (50%) and has 4" in decision.sentence


def test_those_who_are_out_do_not_count_for_the_quorum() -> None:
    members = {1: {"committed": 1}, 2: {"committed": 2, "off_duty": 2, "pinned": 3, "superseded": 2}, 3: {"queued": 1}}
    assert decided(members, wave=2).rule == "open_wave"
    assert decided(members, wave=2, quorum=0.51).waits_for == "quorum"


def test_a_quorum_of_a_tenth_of_thirty_is_three() -> None:
    members = {1: {"committed": 1}, 2: {"committed": 3, "off_duty": 27}, 3: {"queued": 1}}
    assert decided(members, wave=2, quorum=0.1).rule == "open_wave"


def test_the_soak_lasts_from_the_last_result() -> None:
    members = FRESH | {1: {"committed": 1}}
    late = {"last_ended_at": NOW - timedelta(seconds=599)}
    decision = decided(members, of_wave=late)
    assert brief(decision) == ("go_on", "running", 1, 0, "soak_time")
    assert decision.sentence == (
        "Wave 1 (1) is watched until 2026-11-25 12:00:01 UTC, 10 min after its last device ended. A person may advance."
    )
    assert decided(members, of_wave=late, now=NOW + timedelta(seconds=1)).rule == "open_wave"


def test_the_soak_asks_for_use() -> None:
    members, soak = FRESH | {1: {"committed": 1}}, Soak(seconds=600, flights=3, hours=2)
    decision = decided(members, soak=soak, of_wave={"flights": 1, "running_s": 5400})
    assert decision.waits_for == "soak_use"
    assert "has seen 1 of 3 flights and 1.5 of 2 running hours" in decision.sentence
    assert decided(members, soak=soak, of_wave={"flights": 3, "running_s": 7200}).rule == "open_wave"
    assert decided(FRESH | {1: {"off_duty": 1}}, soak=soak, quorum=0.0).rule == "open_wave"  # Nobody could use it.


def test_a_person_closes_a_wave() -> None:
    members = FRESH | {1: {"off_duty": 1}}
    assert decided(members).waits_for == "quorum"
    decision = decided(members, of_wave={"closed_at": NOW})
    assert decision.rule == "open_wave"
    assert "was closed by a person" in decision.sentence


def test_waves_open_one_by_one_over_empty_ones() -> None:
    members = {1: {"committed": 1}, 3: {"queued": 10}}
    first = decided(members)
    assert (first.rule, first.wave) == ("open_wave", 2)
    second = decided(members, wave=2, of_wave={"last_ended_at": None, "opened_at": NOW})
    assert (second.rule, second.wave, second.slots) == ("open_wave", 3, None)


def test_it_finishes() -> None:
    done = {1: {"committed": 1}, 2: {"committed": 9}, 3: {"committed": 8, "pinned": 1, "off_duty": 1}}
    decision = decided(done, wave=3)
    assert brief(decision) == ("finish", "finished", 3, 0, "")
    assert decision.code == "all_done"
    assert decision.sentence.startswith("All waves are closed: 18 of 20 members run nav@2.0.0.")


def test_it_does_not_finish_while_somebody_of_an_earlier_wave_is_under_way_again() -> None:
    retried = {1: {"committed": 1}, 2: {"committed": 8, "queued": 1}, 3: {"committed": 10}}
    assert brief(decided(retried, wave=3)) == ("go_on", "running", 3, None, "")


def test_the_gate_pauses() -> None:
    decision = decided({1: {"rolled_back": 1}, 2: {"queued": 9}, 3: {"queued": 10}})
    assert brief(decision) == ("pause_gate", "paused", 1, 0, "person")
    assert decision.code == "gate_paused"
    assert decision.sentence.startswith("1 of 1 failed: the true rate is at most 100 %, and 3 % is allowed; e = 13.")


@pytest.mark.parametrize("state", ["running", "paused"])
def test_the_gate_halts_also_out_of_a_pause(state: str) -> None:
    decision = decided({1: {"committed": 1}, 2: {"rolled_back": 2, "lost": 1, "trial": 6}}, wave=2, state=state)
    assert brief(decision) == ("halt_gate", "halted", 2, 0, "person")
    assert decision.code == "gate_halted"


@pytest.mark.parametrize("state", ["failed", "rolled_back", "refused", "silent", "lost"])
def test_every_bad_state_counts(state: str) -> None:
    assert decided({1: {state: 2}, 2: {"queued": 1}}).rule == "halt_gate"


@pytest.mark.parametrize("state", ["off_duty", "superseded", "withdrawn", "skipped", "pinned"])
def test_neutral_states_do_not(state: str) -> None:
    assert decided({1: {state: 2}, 2: {"queued": 1}}).reading.e_value == 1.0


def test_a_critical_outcome_pauses_at_the_first_one() -> None:
    members = {1: {"committed": 200}, 2: {"committed": 99, "failed": 1}, 3: {"queued": 10}}
    seen = Critical(1, "gs-7", "trial_starts_used_up")
    decision = decided(members, wave=2, critical=seen)
    assert brief(decision) == ("pause_critical", "paused", 2, 0, "person")
    assert decision.code == "critical_outcome"
    assert decision.sentence.startswith("gs-7 ended with trial_starts_used_up, which is critical")
    assert decided(members, wave=2, critical=seen, accepted=Accepted(critical=1)).rule == "open_wave"


@pytest.mark.parametrize("state", ["running", "paused"])
def test_a_release_that_is_not_published_any_more_halts(state: str) -> None:
    decision = decided(FRESH, state=state, release_state="yanked")
    assert brief(decision) == ("halt_release", "halted", 1, 0, "person")
    assert decision.code == "release_not_published"
    assert decision.sentence.startswith("nav@2.0.0 is yanked")


def test_the_stronger_stop_comes_first() -> None:
    bad, seen = {1: {"lost": 3}, 2: {"queued": 1}}, Critical(3, "gs-7", "lost_contact")
    assert decided(bad, critical=seen, release_state="yanked").rule == "halt_release"
    assert decided(bad, critical=seen).rule == "halt_gate"
    one = {1: {"lost": 1}, 2: {"queued": 1}}
    assert decided(one, critical=Critical(1, "gs-7", "lost_contact")).rule == "pause_critical"


def test_a_wave_that_is_over_does_not_open_the_next_one_against_the_gate() -> None:
    over = {1: {"committed": 1}, 2: {"committed": 6, "rolled_back": 3}, 3: {"queued": 10}}
    assert decided(over, wave=2).rule == "halt_gate"


@pytest.mark.parametrize(
    ("state", "waits_for"),
    [
        ("approval", "person"),
        ("preparing", "preparing"),
        ("paused", "person"),
        ("halted", "person"),
        ("reverted", ""),
        ("finished", ""),
        ("cancelled", ""),
    ],
)
def test_states_in_which_nothing_is_offered(state: str, waits_for: str) -> None:
    decision = decided(FRESH, state=state)
    assert brief(decision) == ("go_on", state, 1, 0, waits_for)


@pytest.mark.parametrize("state", ["approval", "preparing", "halted", "reverting", "reverted", "finished", "cancelled"])
def test_only_what_offers_or_is_paused_is_stopped(state: str) -> None:
    assert decided({1: {"failed": 5}}, state=state, release_state="yanked").state == state


@pytest.mark.parametrize("left", ["reverting", "committed", "failed", "trial", "off_duty", "withdrawn", "silent"])
def test_a_revert_lasts_until_nobody_is_left(left: str) -> None:
    decision = decided({1: {"reverted": 3, left: 1}, 2: {"queued": 5}}, state="reverting")
    assert brief(decision) == ("go_on", "reverting", 1, 0, "outcomes")
    assert decision.sentence.startswith("1 device on the way back; 3 are back, 0 were given up.")


def test_a_revert_ends() -> None:
    decision = decided({1: {"reverted": 3, "revert_failed": 1}, 2: {"queued": 5}}, state="reverting")
    assert brief(decision) == ("revert_done", "reverted", 1, 0, "")
    assert decision.code == "all_back"


def test_the_limit_leaves_so_many_slots() -> None:
    limits = Limits(in_flight=4)
    assert decided({1: {"queued": 9, "trial": 1}}, limits=limits).slots == 3
    full = decided({1: {"queued": 9, "trial": 3, "offered": 1}}, limits=limits)
    assert brief(full) == ("go_on", "running", 1, 0, "limit")
    assert "4 devices under way, and 4 may be" in full.sentence
    assert decided({1: {"queued": 9, "trial": 7}}, limits=limits).slots == 0
    assert decided({1: {"committed": 1}, 2: {"queued": 9}}, limits=limits).slots == 4


def test_outside_windows_nothing_is_offered_but_in_the_urgent_lane() -> None:
    windows = ("22:00-04:00 Asia/Tokyo",)
    decision = decided(FRESH, windows=windows)
    assert brief(decision) == ("go_on", "running", 1, 0, "window")
    assert decision.sentence.startswith("Offers are made again at 2026-11-25 13:00:00 UTC.")
    assert decided(FRESH, windows=windows, now=NOW + timedelta(hours=1)).slots is None
    assert decided(FRESH, windows=windows, urgent="It falls from the sky.").slots is None


def test_the_control_excuses_what_it_proves() -> None:
    members = {1: {"committed": 1}, 2: {"committed": 6, "silent": 3}, 3: {"queued": 10}}
    assert decided(members, wave=2).rule == "pause_gate"
    assert decided(members, wave=2, control=Control(devices=40, silent=12)).rule == "open_wave"


def test_accepted_evidence_does_not_stop_it_again() -> None:
    members = {1: {"committed": 1}, 2: {"committed": 6, "failed": 2}, 3: {"queued": 10}}
    stopped = facts(members, wave=2, state="paused", critical=Critical(1, "gs-7", "lost_contact"))
    accepted = accept(stopped)
    assert accepted == Accepted({0: 7}, {0: 2}, 1)
    assert decided(members, wave=2, accepted=accepted, critical=stopped.critical).rule == "open_wave"
    one_more = members | {3: {"failed": 1, "queued": 9}}
    assert decided(one_more, wave=3, accepted=accepted, critical=stopped.critical).rule == "pause_gate"
    assert decided(members, wave=2, accepted=accepted, critical=Critical(2, "gs-8", "x")).rule == "pause_critical"


def test_a_member_that_is_tried_again_is_not_accepted_twice() -> None:
    accepted = Accepted({0: 7}, {0: 2}, 1)
    retried = facts({1: {"committed": 1}, 2: {"committed": 6, "queued": 2}}, wave=2, accepted=accepted)
    assert remaining(retried) == Accepted({0: 7}, {}, 0)
    failed_again = {1: {"committed": 1}, 2: {"committed": 6, "failed": 2}, 3: {"queued": 10}}
    assert decided(failed_again, wave=2, accepted=remaining(retried)).rule == "halt_gate"

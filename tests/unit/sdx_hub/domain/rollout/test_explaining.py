"""Every state of a rollout, of a wave and of a member is answered in its own words, with what would change it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import pytest

from sdx_hub.domain import why
from sdx_hub.domain.answers import Answer, span
from sdx_hub.domain.rollout import explaining, explaining_members
from sdx_hub.domain.rollout.commands import TABLE
from sdx_hub.domain.rollout.explaining import of_rollout, of_wave
from sdx_hub.domain.rollout.explaining_members import of_member
from sdx_hub.domain.rollout.left_out import NO_MATCH, of_left_out
from sdx_hub.domain.rollout.standing import (
    DeviceRollouts,
    Hold,
    Member,
    Membership,
    Outsider,
    Pin,
    Standing,
    WaveStanding,
)
from sdx_hub.domain.rollout.states import BAD, ENDED, IN_FLIGHT, MEMBER_STATES, ROLLOUT_STATES
from sdx_hub.services.rollouts.planning.eligibility import SENTENCES

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WAITS = ("", "outcomes", "quorum", "soak_time", "soak_use", "window", "person", "limit")
DECIDED = "7 of 8 ended; 1 is under way."
STOPPED = "3 of 5 failed: the true rate is at most 92 %, and 3 % is allowed."


def rollout(state: str = "running", **fields: Any) -> Standing:
    base = {
        "id": "ro-3",
        "release": "nav@1.4.0",
        "product": "nav",
        "wave": 2,
        "wave_count": 4,
        "members": {"committed": 7, "trial": 1, "queued": 12},
        "silent_after_s": 3_600,
        "created_by": "olga",
        "sentence": DECIDED,
    }
    return Standing(state=state, **(base | fields))


def member(state: str, **fields: Any) -> Member:
    base = {"device": "d-1", "serial": "craft-01", "wave": 2, "position": 9, "offered": "nav@1.4.0", "attempt": 1}
    return Member(state=state, **(base | {"since": NOW - timedelta(minutes=7), "previous": "nav@1.3.0"} | fields))


def place(state: str, standing: Standing | None = None, hold: Hold | None = None, **fields: Any) -> Membership:
    return Membership(rollout=standing or rollout(), member=member(state, **fields), hold=hold)


def text(answer: Answer) -> str:
    return " | ".join((*answer.reasons, *answer.changes))


def told_apart(answers: Sequence[Answer]) -> bool:
    return len({answer.reasons for answer in answers}) == len(answers)


def test_no_state_is_without_words() -> None:
    assert set(explaining._STATES) == set(ROLLOUT_STATES)
    assert set(explaining._WAITS) == set(WAITS)
    assert set(explaining_members._STATES) == set(MEMBER_STATES)
    assert set(explaining_members._HOLDS) == set(get_args(Hold.__annotations__["by"]))


@pytest.mark.parametrize("state", ROLLOUT_STATES)
def test_a_rollout_in_each_state(state: str) -> None:
    answer = of_rollout(rollout(state, code="", reason=STOPPED, waits_for=""))
    assert answer.verdict == state
    assert "ro-3" in answer.reasons[0]
    assert "{" not in text(answer)
    assert (answer.changes == ()) == (state == "finished")
    assert (DECIDED if state == "running" else STOPPED) in answer.reasons
    for command in ("approve", "resume", "revert", "advance", "retry", "cancel"):
        if f"sdx rollout {command} ro-3" in text(answer):
            assert command in TABLE[state], f"it advises what is refused in this state: {command}"


def test_the_states_of_a_rollout_are_told_apart() -> None:
    assert told_apart([of_rollout(rollout(state)) for state in ROLLOUT_STATES])


@pytest.mark.parametrize(
    ("waits_for", "words"),
    [
        ("", "offers nav@1.4.0 to the devices of wave 2"),
        ("outcomes", "waits for what is under way: 1 device."),
        ("quorum", "sdx rollout advance ro-3"),
        ("soak_time", "watched for a while"),
        ("soak_use", "Flights and running hours"),
        ("window", "No window is open"),
        ("person", "sdx rollout resume ro-3"),
        ("limit", "As many devices are under way"),
    ],
)
def test_a_running_rollout_says_what_it_waits_for(waits_for: str, words: str) -> None:
    answer = of_rollout(rollout(waits_for=waits_for))
    assert words in text(answer)
    assert answer.verdict == ("waiting" if waits_for else "running")
    assert answer.changes


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("paused", "gate_paused", "The gate paused it"),
        ("halted", "gate_halted", "The gate halted it"),
        ("paused", "critical_outcome", "A critical outcome paused it"),
        ("halted", "release_not_published", "nav@1.4.0 is not published any more"),
    ],
)
def test_who_stopped_it(state: str, code: str, words: str) -> None:
    answer = of_rollout(rollout(state, code=code, reason=STOPPED))
    assert words in text(answer)
    assert answer.reasons[-1] == STOPPED
    assert "sdx rollout evidence ro-3" in answer.changes[0]


def test_how_much_came_back() -> None:
    counts = {"reverted": 5, "reverting": 2, "revert_failed": 1}
    assert "5 back, 2 on the way, 1 not" in text(of_rollout(rollout("reverting", members=counts)))
    assert "5 back, 1 not" in text(of_rollout(rollout("reverted", members=counts)))


def test_a_finished_one_names_what_failed() -> None:
    clean = of_rollout(rollout("finished", members={"committed": 20}))
    assert "20 of 20 devices have committed nav@1.4.0" in clean.reasons[0]
    assert clean.changes == ()
    answer = of_rollout(rollout("finished", members={"committed": 19, "silent": 1}))
    assert "1 device did not take it." in answer.reasons
    assert "sdx rollout evidence ro-3" in answer.changes[0]


def wave(number: int, **fields: Any) -> WaveStanding:
    return WaveStanding(wave=number, label="10%", size=8, **fields)


@pytest.mark.parametrize("state", ROLLOUT_STATES)
def test_a_wave_in_each_state_of_its_rollout(state: str) -> None:
    closed = of_wave(rollout(state), wave(1, opened_at=NOW, closed_at=NOW, members={"committed": 7, "failed": 1}))
    assert (closed.verdict, closed.reasons) == (
        "closed",
        ("Wave 1 of ro-3 (10%) has 8 devices and is closed: 7 committed, 1 failed.",),
    )
    now_open = of_wave(rollout(state), wave(2, opened_at=NOW, members={"committed": 7, "off_duty": 1}))
    assert now_open.verdict == of_rollout(rollout(state)).verdict
    assert "7 committed, 1 off duty" in now_open.reasons[0]
    later = of_wave(rollout(state), wave(3))
    assert later.verdict == ("ended" if state in ENDED else "planned")
    assert ("never opened" if state in ENDED else "after wave 2") in later.reasons[0]
    assert "when the list of devices is whole" in text(of_wave(rollout("preparing"), wave(1)))


@pytest.mark.parametrize("state", MEMBER_STATES)
@pytest.mark.parametrize("above", ROLLOUT_STATES)
def test_a_member_in_each_state(state: str, above: str) -> None:
    answer = of_member(place(state, rollout(above)), NOW)
    assert "ro-3" in answer.reasons[0]
    assert "{" not in text(answer)
    assert ("It counts against nav@1.4.0." in answer.reasons) == (state in BAD)
    if "sdx rollout retry" in text(answer) or "sdx rollout resume" in text(answer):
        assert above not in ENDED, "it advises what is refused"
    assert answer.changes or state in {"committed", "reverted", "queued"}


def test_the_states_of_a_member_are_told_apart() -> None:
    assert told_apart([of_member(place(state), NOW) for state in MEMBER_STATES])


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("offered", "said nothing of it yet"),
        ("downloading", "It downloads nav@1.4.0"),
        ("verified", "downloaded and verified"),
        ("waiting", "its flight gate is closed"),
        ("installing", "It installs nav@1.4.0"),
        ("trial", "on trial"),
        ("committed", "It has committed nav@1.4.0"),
        ("rolled_back", "was not healthy with it, and went back"),
        ("failed", "sdx rollout retry ro-3 craft-01"),
        ("refused", "It refused nav@1.4.0"),
        ("silent", "was not heard again for 60 min"),
        ("lost", "not heard again after it had begun to switch"),
        ("off_duty", "it is off"),
        ("superseded", "assigned something else"),
        ("withdrawn", "to run nav@1.3.0 again"),
        ("pinned", "sdx device unpin craft-01"),
        ("skipped", "It was left out of ro-3"),
        ("reverting", "brings it back to nav@1.3.0"),
        ("reverted", "brought it back to nav@1.3.0"),
        ("revert_failed", "could not bring it back to nav@1.3.0"),
    ],
)
def test_a_member_in_its_own_words(state: str, words: str) -> None:
    answer = of_member(place(state), NOW)
    assert words in text(answer)
    assert "That was 7 min ago, at attempt 1." in answer.reasons


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("queued", "must_pass_done", "which has to come before nav@1.4.0"),
        ("queued", "urgent_lane", "An urgent rollout took its turn"),
        ("lost", "lost_contact", "The last that was heard of it"),
        ("rolled_back", "trial_starts_used_up", "did not stay up on trial"),
        ("revert_failed", "revert_not_allowed", "allows no way back to nav@1.3.0"),
        ("revert_failed", "previous_not_published", "nav@1.3.0 is not published any more"),
        ("revert_failed", "nothing_before", "Nothing of the product was known of it before"),
        ("revert_failed", "device_pinned", "pinned to what it has committed"),
        ("reverted", "assigned_otherwise", "left it alone. | It is to run what it was assigned since."),
        ("reverted", "nothing_before", "is not assigned to it any more"),
        ("reverted", "is_back", "had been taken back before"),
        ("withdrawn", "rollout_halted", "was halted"),
        ("failed", "budget_exhausted", "raise it in agent.toml"),
        ("failed", "disk_full", "The code is disk_full."),
        ("skipped", "by_person", "A person said so."),
        ("skipped", "newer_runs", "It runs a newer release of the product."),
        ("off_duty", "off_duty", "it is off"),
        ("offered", "heard_again", "has polled again"),
        ("queued", "retried", "A person had it tried again."),
    ],
)
def test_codes_say_more(state: str, code: str, words: str) -> None:
    assert words in text(of_member(place(state, code=code, detail="exit 1"), NOW))
    assert "It says: exit 1" in text(of_member(place(state, code=code, detail="exit 1"), NOW))


def test_a_queued_member_waits_for_its_wave() -> None:
    answer = of_member(place("queued", rollout(waits_for="soak_time"), wave=3, since=None), NOW)
    assert answer.verdict == "planned"
    assert answer.reasons[:2] == ("ro-3 will offer craft-01 nav@1.4.0 in wave 3 of 4.", "Wave 2 comes first.")
    assert "watched for a while" in text(answer)
    assert "No wave is open yet." in text(of_member(place("queued", rollout(wave=0), wave=1), NOW))


@pytest.mark.parametrize("waits_for", WAITS)
def test_a_queued_member_of_the_open_wave_waits_for_what_its_rollout_waits_for(waits_for: str) -> None:
    answer = of_member(place("queued", rollout(waits_for=waits_for)), NOW)
    assert answer.verdict == ("waiting" if waits_for else "planned")
    if waits_for:
        assert answer.changes == of_rollout(rollout(waits_for=waits_for)).changes
    else:
        assert "its turn is next" in text(answer)


@pytest.mark.parametrize("above", [state for state in ROLLOUT_STATES if state != "running"])
def test_a_queued_member_of_a_rollout_that_offers_nothing(above: str) -> None:
    answer = of_member(place("queued", rollout(above, reason=STOPPED)), NOW)
    assert answer.verdict == above
    assert set(of_rollout(rollout(above, reason=STOPPED)).reasons) <= set(answer.reasons)


@pytest.mark.parametrize(
    ("hold", "words"),
    [
        (Hold("other_rollout", "ro-7"), "ro-7 has it first"),
        (Hold("site_limit", "north", 5), "5 devices under way at the site north"),
    ],
)
def test_what_holds_one_member_alone(hold: Hold, words: str) -> None:
    answer = of_member(place("queued", rollout(waits_for="outcomes"), hold), NOW)
    assert answer.verdict == "waiting"
    assert words in text(answer)
    assert DECIDED not in answer.reasons


DEVICE = {
    "id": "d-1",
    "serial": "craft-01",
    "state": "accepted",
    "last_seen_at": (NOW - timedelta(seconds=30)).isoformat(),
    "assignments": {"nav": "nav@1.3.0"},
    "components": [{"product": "nav", "version": "1.3.0"}],
    "action": {"id": "d-1.4", "state": "success", "code": "", "detail": ""},
}
UPDATING = DEVICE | {"assignments": {"nav": "nav@1.4.0"}, "action": {"id": "d-1.5", "state": "open", "code": ""}}


def explained(*places: Membership, pin: Pin | None = None, device: dict[str, Any] = DEVICE) -> Answer:
    return why.explain(device, [], NOW, DeviceRollouts(pin, places))


@pytest.mark.parametrize("above", ROLLOUT_STATES)
@pytest.mark.parametrize("state", MEMBER_STATES)
def test_the_device_is_asked_in_each_state(state: str, above: str) -> None:
    membership = place(state, rollout(above))
    device = UPDATING if state in IN_FLIGHT else DEVICE
    answer = explained(membership, device=device)
    history = state in {*BAD, "reverting", "reverted", "revert_failed", "withdrawn"}
    if above in ENDED and not history:
        assert answer == explained(device=device), "a rollout that is over says nothing more"
        return
    assert of_member(membership, NOW).reasons[0] == answer.reasons[0]
    assert "last seen 30 s ago" in text(answer)
    if state == "queued":
        assert answer.verdict in {"waiting", "planned"}
        return
    expected = {"off_duty": "waiting"} | dict.fromkeys((*BAD, "revert_failed"), "failed")
    expected |= dict.fromkeys(IN_FLIGHT, "updating")
    assert answer.verdict == expected.get(state, "up_to_date")


def test_a_device_that_a_rollout_will_reach_is_planned_and_not_to_be_assigned_by_hand() -> None:
    nothing = DEVICE | {"assignments": {}, "action": None}
    answer = explained(place("queued", rollout(waits_for="soak_time"), wave=3, since=None), device=nothing)
    assert answer.verdict == "planned"
    assert "ro-3 will offer craft-01 nav@1.4.0 in wave 3 of 4." in answer.reasons
    assert "sdx device assign" not in text(answer)


def test_of_several_rollouts_the_one_that_has_it_comes_first() -> None:
    first = place("trial", rollout(id="ro-7", urgent=True))
    answer = explained(place("queued", hold=Hold("other_rollout", "ro-7")), first, device=UPDATING)
    assert "ro-7" in answer.reasons[0]
    assert any("ro-7 has it first" in each for each in answer.reasons)


def test_a_pin_is_said_first() -> None:
    pin = Pin("It flies for the museum.", "olga", NOW)
    answer = explained(pin=pin)
    assert answer.verdict == "pinned"
    assert answer.reasons[0] == (
        "olga pinned it on 2026-03-01: It flies for the museum. No rollout offers it anything."
    )
    assert answer.changes[0] == "sdx device unpin craft-01"
    assert explained(place("trial"), pin=pin, device=UPDATING).verdict == "updating"


def test_a_device_that_may_not_poll_is_answered_without_rollouts() -> None:
    assert explained(place("queued"), device=DEVICE | {"state": "revoked"}).verdict == "revoked"


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(seconds=-1), "0 s"),
        (timedelta(seconds=119), "119 s"),
        (timedelta(minutes=119), "119 min"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=7), "7 days"),
    ],
)
def test_lengths_of_time(length: timedelta, words: str) -> None:
    assert span(length) == words


@pytest.mark.parametrize("code", [*SENTENCES, NO_MATCH])
@pytest.mark.parametrize("join", [True, False])
def test_a_device_that_is_left_out(code: str, join: bool) -> None:
    answer = of_left_out(Outsider("ro-3", "nav@1.4.0", code, join), "craft-01")
    assert answer.verdict == "left_out"
    assert answer.reasons[0] == "craft-01 is no member of ro-3."
    assert len(answer.reasons) == 2
    assert "{" not in text(answer)
    assert answer.changes or code == "has_it"


def test_a_device_that_matches_now() -> None:
    joins, stays = (Outsider("ro-3", "nav@1.4.0", "", join) for join in (True, False))
    assert of_left_out(joins, "craft-01").verdict == "planned"
    assert "--join" in text(of_left_out(stays, "craft-01"))
    asked = why.explain(DEVICE, [], NOW, DeviceRollouts(None, (), (joins,)))
    assert (asked.verdict, asked.reasons[-1]) == ("planned", "craft-01 matches, and joins the last wave of ro-3.")
    busy = why.explain(UPDATING, [], NOW, DeviceRollouts(None, (place("trial"),), (joins,)))
    assert busy.verdict == "updating"


def test_a_device_is_told_which_rollout_goes_on_without_it() -> None:
    asked = why.explain(
        DEVICE, [], NOW, DeviceRollouts(None, (), (Outsider("ro-3", "nav@1.4.0", "newer_runs", False),))
    )
    assert (asked.verdict, asked.reasons[-1]) == ("up_to_date", "It runs a newer release of the product.")
    pin = Pin("It flies for the museum.", "olga", NOW)
    pinned = why.explain(DEVICE, [], NOW, DeviceRollouts(pin, (), (Outsider("ro-3", "nav@1.4.0", "pinned", False),)))
    assert text(pinned).count("pinned") == 1

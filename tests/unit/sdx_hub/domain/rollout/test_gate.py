"""The gate's e-value is a bet that cannot win in the mean against a release that is good, however one stops."""

from functools import cache
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdx_hub.domain.rollout import gate
from sdx_hub.domain.rollout.facts import Accepted, Control
from sdx_hub.domain.rollout.policy import Gate

COUNTS = st.integers(0, 200)
BASE = 0.03
ROUNDING = 1 + 1e-9
POLICY = Gate(base_rate=BASE)


def best_of_stopping(rate: float, allowed: float, horizon: int) -> float:
    """The largest expectation of the e-value that any stopping time up to the horizon can reach (Snell's envelope)."""

    @cache
    def value(good: int, bad: int) -> float:
        now = gate.e_value(good, bad, allowed, BASE)
        if good + bad == horizon:
            return now
        return max(now, rate * value(good, bad + 1) + (1 - rate) * value(good + 1, bad))

    return value(0, 0)


@pytest.mark.parametrize("allowed", [BASE, 0.2])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_no_stopping_time_gains_while_the_rate_is_allowed(allowed: float, share: float) -> None:
    assert best_of_stopping(allowed * share, allowed, 120) <= ROUNDING


def test_a_stopping_time_gains_where_the_rate_is_too_large() -> None:
    assert best_of_stopping(0.15, BASE, 60) > 100


@pytest.mark.parametrize("rates", [(0.03, 0.03), (0.0, 0.03), (0.01, 0.02)])
def test_no_stopping_time_gains_over_two_kinds_of_devices_in_any_order(rates: tuple[float, float]) -> None:
    @cache
    def value(counts: tuple[tuple[int, int], tuple[int, int]]) -> float:
        good, bad = ({kind: each[part] for kind, each in enumerate(counts)} for part in (0, 1))
        now = gate.read(good, bad, {0: "a", 1: "b"}, POLICY, Control()).e_value
        if sum(map(sum, counts)) == 7:
            return now
        best = now
        for kind, rate in enumerate(rates):  # Whoever chooses the next device may look at everything before.
            (passed, failed), other = counts[kind], counts[1 - kind]
            after = [(passed, failed + 1), (passed + 1, failed)]
            worse, better = ((one, other) if kind == 0 else (other, one) for one in after)
            best = max(best, rate * value(worse) + (1 - rate) * value(better))
        return best

    assert value(((0, 0), (0, 0))) <= 1 + 1e-5  # Readings have six digits.


def test_good_releases_are_paused_no_more_often_than_promised() -> None:
    chance, paused, halted, runs = Random(4), 0, 0, 2_000
    for _ in range(runs):
        bad, highest = 0, 0.0
        for n in range(1, 151):
            if chance.random() < BASE:
                bad += 1
                highest = max(highest, gate.e_value(n - bad, bad, BASE, BASE))
        paused += highest >= 5
        halted += highest >= 20
    assert paused / runs <= 1 / 5
    assert halted / runs <= 1 / 20


@pytest.mark.parametrize(("rate", "within"), [(0.08, 200), (0.15, 60), (0.3, 20), (1.0, 2)])
def test_bad_releases_are_paused(rate: float, within: int) -> None:
    chance, paused, runs = Random(4), 0, 300
    for _ in range(runs):
        bad = 0
        for n in range(1, within + 1):
            bad += chance.random() < rate
            if gate.e_value(n - bad, bad, BASE, BASE) >= 5:
                paused += 1
                break
    assert paused / runs > 0.75


@pytest.mark.parametrize("base", [0.02, 0.03, 0.05])
def test_the_first_device_that_fails_pauses_and_the_second_one_halts(base: float) -> None:
    assert 5 <= gate.e_value(0, 1, base, base) < 20 <= gate.e_value(0, 2, base, base)


def test_one_of_three_that_fails_pauses_where_it_is_the_only_one_of_its_kind() -> None:
    reading = gate.read({0: 2}, {1: 1}, {0: "a", 1: "b"}, POLICY, Control())
    assert reading.e_value >= 5 > gate.read({0: 2}, {0: 1}, {0: "a"}, POLICY, Control()).e_value


@given(COUNTS, COUNTS, st.floats(0.001, 0.9))
def test_a_failure_never_speaks_for_a_release_nor_a_success_against_it(good: int, bad: int, allowed: float) -> None:
    now = gate.e_value(good, bad, allowed, BASE)
    assert gate.e_value(good, bad + 1, allowed, BASE) >= now / ROUNDING
    assert gate.e_value(good + 1, bad, allowed, BASE) <= now * ROUNDING


@given(COUNTS, COUNTS, st.floats(BASE, 0.9), st.floats(BASE, 0.9))
def test_what_the_control_proves_never_makes_a_stop_of_what_was_none(
    good: int, bad: int, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    assert gate.e_value(good, bad, more, BASE) <= max(1.0, gate.e_value(good, bad, less, BASE)) * ROUNDING


def test_the_order_of_outcomes_does_not_matter() -> None:
    found = set()
    for order in permutations("GGGBB"):
        good, bad = {0: order.count("G")}, {0: order.count("B")}
        found.add(gate.read(good, bad, {0: "x"}, POLICY, Control()).e_value)
    assert len(found) == 1


def test_a_million_outcomes_are_read() -> None:
    assert gate.e_value(990_000, 10_000, BASE, BASE) < 1e-12
    assert gate.e_value(900_000, 100_000, BASE, BASE) == gate.MOST
    assert gate.read({0: 1_000_000}, {}, {0: "x"}, POLICY, Control()).bound < 4e-6


def test_one_kind_of_device_that_fails_is_found_among_many_that_do_not() -> None:
    kinds = {kind: f"rev-{kind}" for kind in range(5)}
    reading = gate.read(dict.fromkeys(range(1, 5), 50), {0: 3}, kinds, POLICY, Control())
    assert reading.by_stratum[0] > 1000
    assert reading.e_value >= 20 > gate.e_value(200, 3, BASE, BASE)
    assert "Most of it is rev-0: 3 of 3 failed" in reading.sentence


def test_what_goes_silent_by_itself_is_not_held_against_the_release() -> None:
    alone = gate.read({0: 8}, {0: 3}, {0: "x"}, POLICY, Control())
    beside = gate.read({0: 8}, {0: 3}, {0: "x"}, POLICY, Control(devices=40, silent=12))
    ignored = gate.read({0: 8}, {0: 3}, {0: "x"}, Gate(base_rate=BASE, control=False), Control(devices=40, silent=12))
    assert alone.allowed_rate == ignored.allowed_rate == BASE
    assert 0.18 < beside.allowed_rate - BASE < 0.20  # 12 of 40 are 30 %, and prove 18.5 %.
    assert alone.e_value == ignored.e_value >= 5 > beside.e_value


def test_one_silent_device_beside_proves_next_to_nothing() -> None:
    assert gate.allowed_rate(POLICY, Control(devices=20, silent=1)) < BASE + 0.003
    assert gate.allowed_rate(POLICY, Control(devices=3, silent=3)) < 0.5
    assert gate.allowed_rate(POLICY, Control(devices=10_000, silent=10_000)) < 1


def test_accepted_evidence_is_left_out() -> None:
    good, bad = {0: 30, 1: 4}, {0: 1, 1: 3}
    reading = gate.read(good, bad, {0: "x", 1: "y"}, POLICY, Control(), accepted=Accepted({0: 10, 1: 4}, {1: 3}))
    assert (reading.good, reading.bad) == (20, 1)
    assert reading.sentence.startswith("1 of 21 failed since it was resumed: ")


@pytest.mark.parametrize(
    ("good", "bad", "sentence"),
    [
        (0, 0, "Nothing has ended yet."),
        (1, 0, "1 clean install still allows a failure rate of 95 %."),
        (20, 0, "20 clean installs still allow a failure rate of 14 %."),
        (1000, 0, "1,000 clean installs still allow a failure rate of 0.3 %."),
        (
            14,
            3,
            "3 of 17 failed: the true rate is at most 40 %, and 3 % is allowed; e = 6.6, pause at 5, halt at 20.",
        ),
    ],
)
def test_the_sentence(good: int, bad: int, sentence: str) -> None:
    assert gate.read({0: good}, {0: bad}, {0: "x"}, POLICY, Control()).sentence == sentence

"""The evidence is a bet that cannot win in the mean against a release that is good, however one stops."""

from functools import cache
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdx_hub.domain.rollout.evidence import FROM_SWITCH, MOST, Outcomes, combined, e_value, evidence, of_kinds

COUNTS = st.integers(0, 200)
BASE = 0.03
ROUNDING = 1 + 1e-9


def best_of_stopping(rate: float, allowed: float, horizon: int) -> float:
    """The largest expectation of the e-value that any stopping time up to the horizon can reach (Snell's envelope)."""

    @cache
    def value(good: int, bad: int) -> float:
        now = e_value(good, bad, allowed, BASE)
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
        outcomes = {kind: Outcomes(committed=good, broken=bad) for kind, (good, bad) in enumerate(counts)}
        by_kind = {kind: evidence(each, BASE, BASE) for kind, each in outcomes.items()}
        now = combined(evidence(of_kinds(outcomes.values()), BASE, BASE), by_kind)
        if sum(map(sum, counts)) == 7:
            return now
        best = now
        for kind, rate in enumerate(rates):  # Whoever chooses the next device may look at everything before.
            (passed, failed), other = counts[kind], counts[1 - kind]
            after = [(passed, failed + 1), (passed + 1, failed)]
            worse, better = ((one, other) if kind == 0 else (other, one) for one in after)
            best = max(best, rate * value(worse) + (1 - rate) * value(better))
        return best

    assert value(((0, 0), (0, 0))) <= ROUNDING


def test_good_releases_are_paused_no_more_often_than_promised() -> None:
    chance, paused, halted, runs = Random(4), 0, 0, 2_000
    for _ in range(runs):
        bad, highest = 0, 0.0
        for n in range(1, 151):
            if chance.random() < BASE:
                bad += 1
                highest = max(highest, e_value(n - bad, bad, BASE, BASE))
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
            if e_value(n - bad, bad, BASE, BASE) >= 5:
                paused += 1
                break
    assert paused / runs > 0.75


@pytest.mark.parametrize("base", [0.02, 0.03])
def test_the_first_device_that_fails_pauses_and_the_second_one_halts(base: float) -> None:
    assert 5 <= e_value(0, 1, base, base) < 20 <= e_value(0, 2, base, base)
    assert 5 <= evidence(Outcomes(stopped=1), base, base) < 20 <= evidence(Outcomes(stopped=2), base, base)


@given(COUNTS, COUNTS, st.floats(0.001, 0.9))
def test_a_failure_never_speaks_for_a_release_nor_a_success_against_it(good: int, bad: int, allowed: float) -> None:
    now = e_value(good, bad, allowed, BASE)
    assert e_value(good, bad + 1, allowed, BASE) >= now / ROUNDING
    assert e_value(good + 1, bad, allowed, BASE) <= now * ROUNDING


@given(COUNTS, COUNTS, st.floats(BASE, 0.9), st.floats(BASE, 0.9))
def test_what_the_control_proves_never_makes_a_stop_of_what_was_none(
    good: int, bad: int, one: float, other: float
) -> None:
    less, more = sorted((one, other))
    assert e_value(good, bad, more, BASE) <= max(1.0, e_value(good, bad, less, BASE)) * ROUNDING


def test_the_order_of_outcomes_does_not_matter() -> None:
    found = set()
    for order in permutations("GGGBB"):
        outcomes = Outcomes()
        for each in order:
            outcomes = of_kinds([outcomes, Outcomes(committed=1) if each == "G" else Outcomes(broken=1)])
        found.add(evidence(outcomes, BASE, BASE))
    assert len(found) == 1


def test_a_million_outcomes_are_read() -> None:
    assert e_value(990_000, 10_000, BASE, BASE) < 1e-12
    assert e_value(900_000, 100_000, BASE, BASE) == MOST


def test_a_little_more_than_is_allowed_is_no_evidence_however_many_there_are() -> None:
    assert e_value(485_000, 15_000, 0.02, 0.02) < 1
    assert e_value(480_000, 20_000, 0.02, 0.02) > 1e6


def test_failures_that_are_known_sooner_than_successes_are_no_evidence_yet() -> None:
    assert e_value(0, 20, BASE, BASE) > 1e12
    assert evidence(Outcomes(on_trial=980, broken=20), BASE, BASE) < 1
    assert evidence(Outcomes(under_way=980, stopped=20), BASE, BASE) < 1
    assert evidence(Outcomes(on_trial=20, under_way=900, broken=20), BASE, BASE) > 20


@given(st.data(), st.integers(1, 60), st.integers(0, 20), st.integers(0, 20))
def test_whatever_is_known_first_it_is_never_more_evidence_than_what_there_is(
    data: st.DataObject, good: int, broken: int, stopped: int
) -> None:
    """Devices that were offered it, of which only some have ended; and none that has is missing."""
    known = [data.draw(st.integers(0, most)) for most in (good, broken, stopped)]
    on_trial = data.draw(st.integers(0, good - known[0])) + broken - known[1]
    rest = good + broken + stopped - sum(known) - on_trial
    now = Outcomes(known[0], on_trial, rest, known[1], known[2])
    begun = known[0] + on_trial + known[1]
    from_switch = e_value(begun - broken, broken, BASE, BASE)
    from_offer = e_value(good, broken + stopped, BASE, BASE)
    in_the_end = FROM_SWITCH * from_switch + (1 - FROM_SWITCH) * from_offer
    assert evidence(now, BASE, BASE) <= in_the_end * ROUNDING

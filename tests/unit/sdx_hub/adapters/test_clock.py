"""One time for all replicas, whatever their own clocks say."""

from datetime import UTC, datetime, timedelta

import pytest

from sdx_hub.adapters.clock import CorrectedClock

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
TICK = timedelta(milliseconds=4)


class Standing:
    def __init__(self, time: datetime) -> None:
        self.time = time

    def now(self) -> datetime:
        return self.time


@pytest.mark.parametrize("off", [timedelta(hours=1), timedelta(hours=-1), timedelta(seconds=3), timedelta(days=-400)])
def test_a_clock_that_is_off_is_set_right(off: timedelta) -> None:
    clock = CorrectedClock(Standing(NOON + off))
    assert clock.learn(NOON, NOON + off - TICK, NOON + off + TICK)
    assert clock.now() == NOON
    assert clock.offset == -off


def test_what_the_network_adds_is_no_difference() -> None:
    clock = CorrectedClock(Standing(NOON))
    assert not clock.learn(NOON + timedelta(milliseconds=300), NOON - TICK, NOON + TICK)
    assert clock.now() == NOON


def test_a_slow_answer_moves_nothing_that_it_cannot_know() -> None:
    """The server was asked, and answered ten seconds later: the true time is anywhere in between."""
    clock = CorrectedClock(Standing(NOON))
    assert not clock.learn(NOON + timedelta(seconds=1), NOON, NOON + timedelta(seconds=10))
    assert clock.now() == NOON


def test_a_clock_that_was_set_right_by_hand_is_left_alone_again() -> None:
    system = Standing(NOON + timedelta(hours=1))
    clock = CorrectedClock(system)
    clock.learn(NOON, system.time, system.time)
    system.time = NOON  # NTP came back.
    assert clock.learn(NOON, system.time, system.time)
    assert clock.now() == NOON


def test_a_small_drift_of_a_corrected_clock_is_not_followed_each_time() -> None:
    system = Standing(NOON + timedelta(hours=1))
    clock = CorrectedClock(system)
    assert clock.learn(NOON, system.time, system.time)
    assert not clock.learn(NOON + timedelta(milliseconds=200), system.time, system.time)
    assert clock.now() == NOON

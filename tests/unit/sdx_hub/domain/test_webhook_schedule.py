"""When a message is tried again, as the specification's table has it."""

from datetime import UTC, datetime, timedelta

import pytest

from sdx_hub.domain.webhook_schedule import GIVE_UP, MAX_ATTEMPTS, Answer, is_hopeless, judge

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_message_is_tried_when_the_specification_says() -> None:
    since_start, times = timedelta(), []
    for attempt in range(1, MAX_ATTEMPTS):
        outcome = judge(Answer(500), attempt, NOW, 0.0)
        assert outcome.verdict == "again"
        since_start += outcome.next_at - NOW
        times.append(since_start)
    assert [str(each) for each in times] == [
        "0:00:05",
        "0:05:05",
        "0:35:05",
        "2:35:05",
        "7:35:05",
        "17:35:05",
        "1 day, 7:35:05",
        "2 days, 3:35:05",
        "3 days, 3:35:05",
    ]
    assert judge(Answer(500), MAX_ATTEMPTS, NOW, 0.0).verdict == "given_up"


def test_what_failed_together_is_not_tried_again_together() -> None:
    times = {judge(Answer(0), 2, NOW, chance / 10).next_at for chance in range(10)}
    assert len(times) == 10
    assert min(times) == NOW + timedelta(seconds=300)
    assert max(times) < NOW + timedelta(seconds=330)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_two_hundred_and_something_is_done(status: int) -> None:
    assert judge(Answer(status), MAX_ATTEMPTS, NOW, 0.0).verdict == "done"


@pytest.mark.parametrize("status", [0, 301, 308, 400, 401, 404, 500])
def test_anything_else_is_tried_again_and_holds_up_nothing(status: int) -> None:
    outcome = judge(Answer(status), 1, NOW, 0.0)
    assert (outcome.verdict, outcome.others_wait_until) == ("again", None)


def test_a_receiver_that_is_gone_is_not_tried_again() -> None:
    assert judge(Answer(410), 1, NOW, 0.0).verdict == "gone"


@pytest.mark.parametrize(
    ("status", "retry_after_s", "waits_s"), [(429, 0, 60), (502, 0, 60), (503, 7, 60), (504, 90, 90), (500, 20, 20)]
)
def test_a_receiver_that_has_too_much_to_do_is_left_alone(status: int, retry_after_s: int, waits_s: int) -> None:
    outcome = judge(Answer(status, retry_after_s), 1, NOW, 0.0)
    assert outcome.next_at == outcome.others_wait_until == NOW + timedelta(seconds=waits_s)
    later = judge(Answer(status, retry_after_s), 3, NOW, 0.0)
    assert later.next_at == NOW + timedelta(minutes=30), "the schedule is longer"


def test_nobody_puts_a_message_off_for_longer_than_a_day() -> None:
    assert judge(Answer(503, 10**9), 1, NOW, 0.0).next_at == NOW + timedelta(days=1)


def test_five_days_are_enough() -> None:
    assert not is_hopeless(NOW, NOW + GIVE_UP - timedelta(seconds=1))
    assert is_hopeless(NOW, NOW + timedelta(days=5))

"""Expected times: rounds, windows, and what is too far away for a date."""

from datetime import UTC, datetime, timedelta

from sdx_hub.domain.rollout.estimating import Load, Pace, Span, expected
from sdx_hub.domain.rollout.windows import parse

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)  # A Monday.
NIGHTS = (parse("22:00-02:00"),)


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


def test_waves_follow_each_other() -> None:
    spans = expected([Load(1, 1), Load(9, 9)], Pace(3_600, soak_s=7_200), NOON)
    assert spans == [Span(NOON, NOON + hours(3)), Span(NOON + hours(3), NOON + hours(6))]


def test_a_limit_makes_rounds() -> None:
    assert expected([Load(100, 0)], Pace(3_600, in_flight=30), NOON)[0].ends_at == NOON + hours(4)
    assert expected([Load(100, 21)], Pace(3_600, in_flight=30, site_in_flight=2), NOON)[0].ends_at == NOON + hours(11)


def test_rounds_begin_in_windows_only() -> None:
    """Four hours each night, an hour each: four rounds a night, and the last one goes on after the window."""
    ten = NOON.replace(hour=22)
    spans = expected([Load(4, 0), Load(5, 0)], Pace(3_600, in_flight=1, windows=NIGHTS), NOON)
    assert spans[0] == Span(ten, ten + hours(4))
    assert spans[1] == Span(ten + hours(24), ten + hours(48) + hours(1))


def test_a_window_that_is_shorter_than_a_round_has_one() -> None:
    spans = expected([Load(3, 0)], Pace(5 * 3_600, in_flight=1, windows=NIGHTS), NOON)
    assert spans[0].ends_at == NOON.replace(hour=22) + hours(48) + hours(5)


def test_what_is_too_far_away_has_no_date() -> None:
    spans = expected([Load(10**6, 0), Load(1, 0)], Pace(3_600, in_flight=10), NOON)
    assert spans == [Span(NOON, None), Span(None, None)]
    spans = expected([Load(2_000, 0)], Pace(3_600, in_flight=1, windows=NIGHTS), NOON)
    assert spans[0].ends_at is None

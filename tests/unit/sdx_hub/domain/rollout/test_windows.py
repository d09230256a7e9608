"""Windows open and close when a clock on the wall of their zone says so."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.rollout.windows import DAYS, is_open, next_close, next_open, parse

TOKYO = (parse("Mon-Fri 22:00-04:00 Asia/Tokyo"),)  # 13:00 to 19:00 UTC.


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-11-25 12:59:59", False),
        ("2026-11-25 13:00", True),  # Wednesday, 22:00 in Tokyo.
        ("2026-11-25 18:59:59", True),
        ("2026-11-25 19:00", False),
        ("2026-11-27 18:00", True),  # Friday's window, on Saturday at 03:00.
        ("2026-11-28 13:30", False),  # Saturday.
        ("2026-11-29 16:00", False),  # Monday, 01:00: it would belong to Sunday.
    ],
)
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins(now: str, expected: bool) -> None:
    assert is_open(TOKYO, utc(now)) is expected


def test_next_open_and_next_close() -> None:
    assert next_open(TOKYO, utc("2026-11-27 20:00")) == utc("2026-11-30 13:00")
    assert next_open(TOKYO, utc("2026-11-27 14:00")) == utc("2026-11-27 14:00")
    assert next_close(TOKYO, utc("2026-11-27 14:00")) == utc("2026-11-27 19:00")
    assert next_close(TOKYO, utc("2026-11-27 20:00")) == utc("2026-11-27 20:00")


def test_without_windows_it_is_always_open() -> None:
    now = utc("2026-11-27 14:00")
    assert is_open((), now)
    assert next_open((), now) == now
    assert next_close((), now) is None
    assert next_close((parse("00:00-24:00"),), now) is None


def test_windows_that_touch_are_one() -> None:
    windows = (parse("Fri 22:00-24:00"), parse("Sat 00:00-03:00"), parse("Sat 02:00-05:00"))
    assert next_close(windows, utc("2026-11-27 22:30")) == utc("2026-11-28 05:00")


@pytest.mark.parametrize(
    ("window", "opens", "closes"),
    [
        # Berlin skips 02:00 to 03:00 on 29 March 2026: 02:30 is an hour later, 03:30.
        ("Sun 02:30-05:00 Europe/Berlin", "2026-03-29 01:30", "2026-03-29 03:00"),
        ("Sun 01:00-02:30 Europe/Berlin", "2026-03-29 00:00", "2026-03-29 01:30"),
        ("Sat 22:00-04:00 Europe/Berlin", "2026-03-28 21:00", "2026-03-29 02:00"),
        # It has 02:00 to 03:00 twice on 25 October: from the first beginning to the second end.
        ("Sun 02:00-02:30 Europe/Berlin", "2026-10-25 00:00", "2026-10-25 01:30"),
        ("Sat 22:00-04:00 Europe/Berlin", "2026-10-24 20:00", "2026-10-25 03:00"),
    ],
)
def test_clocks_that_change(window: str, opens: str, closes: str) -> None:
    windows = (parse(window),)
    assert next_open(windows, utc(opens) - timedelta(hours=1)) == utc(opens)
    assert next_close(windows, utc(opens)) == utc(closes)


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("22:00-23:00", set(range(7))),
        ("Mon 22:00-23:00", {0}),
        ("sat,Sun 22:00-23:00", {5, 6}),
        ("Fri-Mon 22:00-23:00", {4, 5, 6, 0}),
        ("Mon-Wed,Fri 22:00-23:00 UTC", {0, 1, 2, 4}),
    ],
)
def test_days(text: str, days: set[int]) -> None:
    assert parse(text).days == days


@pytest.mark.parametrize(
    "text",
    [
        "",
        "always",
        "22-04",
        "22:00-22:00",
        "24:00-03:00",
        "22:00-24:01",
        "22:60-23:00",
        "Mo-Fr 22:00-04:00",
        "Mon-Tue-Wed 22:00-04:00",
        "22:00-04:00 Mars/Olympus",
        "22:00-04:00 Asia",
        "22:00-04:00 ../../etc/passwd",
        "22:00-04:00 a/../../b",
        "Mon-Fri 22:00-04:00 Asia/Tokyo and more",
    ],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as refusal:
        parse(text)
    assert refusal.value.code == "window_invalid"


@given(
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=3, unique=True),
    st.integers(0, 95),
    st.integers(1, 95),
    st.sampled_from(["UTC", "Asia/Tokyo", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),  # noqa: DTZ001 - the zone comes below
)
def test_it_opens_when_it_says_so(days: list[str], begin: int, length: int, zone: str, now: datetime) -> None:
    quarters = (begin, (begin + length) % 96)
    times = "-".join(f"{quarter // 4:02}:{quarter % 4 * 15:02}" for quarter in quarters)
    windows, now = (parse(f"{','.join(days)} {times} {zone}"),), now.replace(tzinfo=UTC)
    opens = next_open(windows, now)
    closes = next_close(windows, opens)
    assert opens >= now
    assert is_open(windows, opens)
    assert closes is not None
    assert closes > opens
    assert is_open(windows, closes - timedelta(seconds=1))
    assert not is_open(windows, closes)
    assert is_open(windows, now) == (opens == now)
    if opens > now:
        assert not is_open(windows, opens - timedelta(seconds=1))

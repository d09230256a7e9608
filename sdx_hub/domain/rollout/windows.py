"""Times in which offers are made: `Mon-Fri 22:00-04:00 Asia/Tokyo`.

    [DAYS] HH:MM-HH:MM [ZONE]

DAYS are `Mon-Fri`, `Sat,Sun`, `Mon-Wed,Fri`; left out: every day. ZONE is a name of the IANA time zone database; left
out: UTC. A window that ends at or before its beginning ends on the next day; the day is the one on which it begins.
`24:00` is the end of the day.

When clocks change, a window is never shorter than it reads: a beginning that the clock skips comes as much later, an
end as well; a beginning that comes twice is the first one, an end the second one.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

from sdx_hub.domain.errors import BadInput

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_SHAPE = re.compile(
    r"(?:(?P<days>[A-Za-z]{3}(?:[-,][A-Za-z]{3})*)\s+)?"
    r"(?P<h1>\d{2}):(?P<m1>\d{2})-(?P<h2>\d{2}):(?P<m2>\d{2})"
    r"(?:\s+(?P<zone>[A-Za-z][A-Za-z0-9_+\-/]*))?"
)
_HORIZON = timedelta(days=15)
"""Every window comes at least once in a week: what is open for so long is always open."""


class Window(Struct, frozen=True):
    """One window.

    Attributes:
        days: 0 is Monday.
        begins, ends: Minutes since midnight, local; `ends` is larger, and above 1440 on the next day.
        zone: IANA name.
    """

    days: frozenset[int]
    begins: int
    ends: int
    zone: str


@lru_cache(maxsize=256)
def parse(text: str) -> Window:
    """Read a window.

    Raises:
        BadInput: It is not one, or its zone is unknown (`window_invalid`).
    """
    found = _SHAPE.fullmatch(text.strip())
    if not found:
        raise _invalid(text, "Write it as Mon-Fri 22:00-04:00 Asia/Tokyo; the days and the zone may be left out.")
    begins, ends = (int(found[f"h{part}"]) * 60 + int(found[f"m{part}"]) for part in "12")
    if int(found["m1"]) > 59 or int(found["m2"]) > 59 or begins >= 1440 or ends > 1440:
        raise _invalid(text, "Times are 00:00 to 23:59, or 24:00 at the end.")
    if begins == ends:
        raise _invalid(text, "It ends when it begins. A whole day is 00:00-24:00.")
    zone = found["zone"] or "UTC"
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise _invalid(text, f"{zone} is not in the hub's time zone database.") from error
    return Window(_days(text, found["days"]), begins, ends if ends > begins else ends + 1440, zone)


def is_open(windows: Sequence[Window], now: datetime) -> bool:
    """Whether offers may be made; always, where there are no windows."""
    return not windows or any(begin <= now < end for begin, end in _near(windows, now))


def next_open(windows: Sequence[Window], now: datetime) -> datetime:
    """When offers may be made: now, or the beginning of the next window, in UTC."""
    if is_open(windows, now):
        return now
    return min(begin for begin, _ in _near(windows, now) if begin > now)


def next_close(windows: Sequence[Window], now: datetime) -> datetime | None:
    """When offers stop, in UTC: now, where it is closed; None if never. Windows that touch are one."""
    if not windows:
        return None
    end = now
    for begin, until in sorted(_near(windows, now)):
        if begin <= end < until:
            end = until
    return end if end - now < _HORIZON - timedelta(days=3) else None


def _days(text: str, days: str | None) -> frozenset[int]:
    if not days:
        return frozenset(range(7))
    found: set[int] = set()
    for part in days.split(","):
        ends = [day.capitalize() for day in part.split("-")]
        if len(ends) > 2 or not set(ends) <= set(DAYS):
            raise _invalid(text, f"Days are {', '.join(DAYS)}, alone or as in Mon-Fri.")
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        found.update((first + step) % 7 for step in range((last - first) % 7 + 1))
    return frozenset(found)


def _near(windows: Sequence[Window], now: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Beginnings and ends in UTC, from those that may still be open until the horizon."""
    for window in windows:
        zone = ZoneInfo(window.zone)
        today = now.astimezone(zone).date()
        for step in range(-2, _HORIZON.days + 1):
            day = today + timedelta(days=step)
            if day.weekday() in window.days:
                ends = {_at(day, window.ends, zone, fold) for fold in (0, 1)}
                yield _at(day, window.begins, zone, 0), max(ends)


def _at(day: date, minutes: int, zone: ZoneInfo, fold: int) -> datetime:
    local = datetime.combine(day + timedelta(days=minutes // 1440), time(minutes % 1440 // 60, minutes % 60), zone)
    return local.replace(fold=fold).astimezone(UTC)


def _invalid(text: str, help_: str) -> BadInput:
    return BadInput(f"{text!r} is no window. {help_}", "window_invalid")

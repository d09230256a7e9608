"""How long a rollout will take if nothing stops it: a rough figure, made of what is known and of what is assumed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from msgspec import Struct

from sdx_hub.domain.rollout.windows import Window, next_close, next_open

ASSUMED_INSTALL_S: Final = 300
"""To download, check and install, where no rollout of this hub has shown it yet."""
HORIZON: Final = timedelta(days=366)
"""What takes longer is not worth a date."""


class Pace(Struct, frozen=True):
    """How fast it goes.

    Attributes:
        device_s: From the offer to the commit of one device.
        soak_s: After the last device of a wave.
        in_flight: Devices under way at once; 0 for all.
        site_in_flight: The same for each site.
        windows: When offers are made; none for always.
    """

    device_s: float
    soak_s: float = 0
    in_flight: int = 0
    site_in_flight: int = 0
    windows: tuple[Window, ...] = ()


class Load(Struct, frozen=True):
    """A wave.

    Attributes:
        devices: All of them.
        site_devices: At the site that has most of them.
    """

    devices: int
    site_devices: int


class Span(Struct, frozen=True):
    """When a wave is expected; None is beyond the horizon."""

    starts_at: datetime | None
    ends_at: datetime | None


def expected(loads: Sequence[Load], pace: Pace, start: datetime) -> list[Span]:
    """When each wave begins and ends, if every device is there and takes it.

    Args:
        loads: The waves.
        pace: Of each of them.
        start: UTC; the first offer comes then, or when the next window opens.
    """
    spans: list[Span] = []
    at: datetime | None = start
    for load in loads:
        begin = next_open(pace.windows, at) if at is not None else None
        offered = _last_round(begin, _rounds(load, pace), pace, start + HORIZON) if begin is not None else None
        at = offered + timedelta(seconds=pace.device_s + pace.soak_s) if offered is not None else None
        spans.append(Span(begin, at))
    return spans


def _rounds(load: Load, pace: Pace) -> int:
    """How often a place has to become free until all have had one."""
    everywhere = -(-load.devices // pace.in_flight) if pace.in_flight else 1
    at_one_site = -(-load.site_devices // pace.site_in_flight) if pace.site_in_flight else 1
    return max(everywhere, at_one_site, 1)


def _last_round(begin: datetime, rounds: int, pace: Pace, horizon: datetime) -> datetime | None:
    """When the last round begins: as many as fit into each window, until all have begun."""
    while begin <= horizon:
        close = next_close(pace.windows, begin)
        if close is None:
            last = begin + timedelta(seconds=min((rounds - 1) * pace.device_s, HORIZON.total_seconds() * 2))
            return last if last <= horizon else None
        fitting = max(1, -int(-(close - begin).total_seconds() // max(pace.device_s, 1)))
        if fitting >= rounds:
            return begin + timedelta(seconds=(rounds - 1) * pace.device_s)
        rounds -= fitting
        begin = next_open(pace.windows, max(close, begin + timedelta(seconds=fitting * pace.device_s)))
    return None

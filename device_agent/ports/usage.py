"""How much the craft was used: what its flight stack counts, or else how long it was on.

`running.json` holds the seconds that the craft was on, over all boots; `usage.json` what was reported last. The first
is saved often in the first minutes of a boot, because a flight may be short and end with the battery pulled, and rarely
later, because a medium wears. Such an end costs half of what the craft was on since it started, at most a quarter of
an hour.
"""

import os
import stat
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from device_agent.core.errors import AgentError
from device_agent.ports.clock import Clock
from device_agent.ports.home import Home
from device_agent.ports.outbox import Outbox
from device_agent.ports.storage import Storage, read_optional, replace_file
from device_agent.settings import UsageSettings
from firmware_schemas.device_api import Flights, RunningSeconds

FIRST_SAVE_S = 60
LONGEST_SAVE_S = 900
LOOK_AGAIN_S = 60.0
"""How often a file that says nothing new is read: one that does is reported so much later at most."""
_MAX_FILE_BYTES = 4096


class UsageUnreadable(AgentError):
    """The flight stack's file says nothing that can be used; the update goes on without it."""

    default_code = "usage_unreadable"


class Totals(Struct, frozen=True):
    """Use in the life of the craft, as the flight stack's file says it; what else is in there is its own affair."""

    flights: Flights
    running_s: RunningSeconds


class Reported(Struct, frozen=True):
    """usage.json.

    Attributes:
        counter: Of the report.
        at_s: Seconds that the craft was on in its life when it was made.
    """

    flights: int
    running_s: int
    counter: int
    at_s: int


class _Kept(Struct, frozen=True):
    """running.json: seconds in all, as they were `since_boot_s` after the start of a boot."""

    total_s: int
    boot_id: str
    since_boot_s: int


_Note = TypeVar("_Note", Reported, _Kept)


class RunningTime:
    """Seconds that the craft was on, as far as anybody was there to count.

    Args:
        path: STATE/running.json.
        storage: For saving.
        clock: CLOCK_BOOTTIME, and the identity of the boot.
        at_least_s: What is known from elsewhere; a count that was lost goes on from there.
    """

    def __init__(self, path: Path, storage: Storage, clock: Clock, at_least_s: int = 0) -> None:
        self._path, self._storage, self._clock = path, storage, clock
        self._boot_id = clock.boot_id()
        kept = _read(path, _Kept)
        self._is_kept = kept is not None
        if kept is None:
            # Before the first start nobody counted: how long the board was on until now says nothing.
            kept = _Kept(at_least_s, self._boot_id, clock.since_boot_s())
        elif kept.boot_id != self._boot_id:
            kept = _Kept(max(kept.total_s, at_least_s), self._boot_id, 0)
        self._kept = kept

    def total_s(self) -> int:
        return self._kept.total_s + max(self._clock.since_boot_s() - self._kept.since_boot_s, 0)

    def due_in_s(self) -> float:
        """Seconds until it is worth a write."""
        if not self._is_kept:
            return 0.0
        gap_s = min(max(self._kept.since_boot_s, FIRST_SAVE_S), LONGEST_SAVE_S)
        return float(max(self._kept.since_boot_s + gap_s - self._clock.since_boot_s(), 0))

    def save_if_due(self) -> None:
        if self.due_in_s() <= 0:
            self.save()

    def save(self) -> None:
        """Make the count durable."""
        self._kept = _Kept(self.total_s(), self._boot_id, self._clock.since_boot_s())
        self._is_kept = True
        replace_file(self._storage, self._path, msgspec.json.encode(self._kept))


class Usage:
    """What the craft was used, and whether the hub should hear of it.

    Args:
        home: For the two files and the outbox.
        settings: Of the device.
        storage: For what is written.
        clock: See `RunningTime`.
    """

    def __init__(self, home: Home, settings: UsageSettings, storage: Storage, clock: Clock) -> None:
        self._home, self._settings, self._storage = home, settings, storage
        reported = _read(home.usage, Reported)
        self.running = RunningTime(home.running, storage, clock, reported.at_s if reported is not None else 0)

    def totals(self) -> Totals:
        """Use so far.

        Raises:
            UsageUnreadable: The flight stack's file is not there, or holds something else.
        """
        if self._settings.file:
            return _totals_of(Path(self._settings.file))
        return Totals(0, self.running.total_s())

    def news(self, *, at_once: bool = False) -> Totals | None:
        """What to report now; None where nothing is new, it is too early, or the last report still waits.

        Args:
            at_once: Now is the moment, whatever became of the last report.
        """
        reported = _read(self._home.usage, Reported)
        if reported is not None and not at_once and self._wait_s(reported) > 0:
            return None
        try:
            totals = self.totals()
        except UsageUnreadable:
            return None
        if reported is None:
            return totals
        if totals.flights <= reported.flights and totals.running_s <= reported.running_s:
            return None
        if not at_once and reported.counter in Outbox(self._home.outbox, self._storage).counters():
            return None  # A craft without a link must not fill its medium with totals.
        return Totals(max(totals.flights, reported.flights), max(totals.running_s, reported.running_s))

    def look_in_s(self) -> float:
        """Seconds until `news` may have something, where it has nothing now."""
        reported = _read(self._home.usage, Reported)
        wait_s = self._wait_s(reported) if reported is not None else 0.0
        return max(wait_s, min(LOOK_AGAIN_S, self._settings.interval_s))

    def remember(self, totals: Totals, counter: int) -> None:
        """Note what was reported; only a worker does."""
        note = Reported(totals.flights, totals.running_s, counter, self.running.total_s())
        replace_file(self._storage, self._home.usage, msgspec.json.encode(note))

    def _wait_s(self, reported: Reported) -> float:
        # Counted in time that the craft was on: it may be on for minutes at a time.
        return reported.at_s + self._settings.interval_s - self.running.total_s()


def _totals_of(path: Path) -> Totals:
    try:
        # Not through a link, and not waiting for the other end of a pipe: who writes here need not be trusted.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            raw = os.read(descriptor, _MAX_FILE_BYTES + 1) if is_file else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageUnreadable(f"{path} cannot be read ({error.strerror}): use is not reported.") from error
    if not is_file:
        raise UsageUnreadable(f"{path} is no file: use is not reported.")
    if len(raw) > _MAX_FILE_BYTES:
        raise UsageUnreadable(f"{path} has more than {_MAX_FILE_BYTES} bytes: use is not reported.")
    try:
        return msgspec.json.decode(raw, type=Totals)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageUnreadable(
            f'{path} does not hold {{"flights": N, "running_s": N}} ({error}): use is not reported.'
        ) from error


def _read(path: Path, kind: type[_Note]) -> _Note | None:
    try:
        raw = read_optional(path, _MAX_FILE_BYTES)
        return msgspec.json.decode(raw, type=kind) if raw is not None else None
    except (msgspec.DecodeError, ValueError):
        return None

"""Clocks that nobody outside can set: monotonic time, time since boot, and the identity of the boot.

The system's wall clock is read in one place only, for the information field of a report.
"""

import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    def monotonic_s(self) -> float:
        """For rates and deadlines."""

    def since_boot_s(self) -> int:
        """Whole seconds since boot, time asleep included (CLOCK_BOOTTIME)."""

    def boot_id(self) -> str:
        """Changes with each boot."""

    def wall_s(self) -> int:
        """What the device believes; information only."""

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """Linux clocks."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def since_boot_s(self) -> int:
        return int(time.clock_gettime(time.CLOCK_BOOTTIME))

    def boot_id(self) -> str:
        try:
            return _BOOT_ID.read_text().strip()
        except OSError:
            return "unknown"

    def wall_s(self) -> int:
        return max(int(time.time()), 0)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

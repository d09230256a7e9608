"""Time as something that is handed in, so that tests and replays can say what time it is."""

from datetime import UTC, datetime, timedelta
from typing import Protocol

TOLERANCE = timedelta(seconds=1)
"""Differences below this are the network's and the scheduler's; clocks that are kept by NTP stay within it."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The current time: aware, UTC, whole microseconds."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class CorrectedClock:
    """The system's clock, set right by a time that all replicas share: their database server's.

    Without it a replica whose clock is an hour off would sign metadata that expires an hour early, accept tokens that
    are over, and have seen devices in the future. With it there is one time for all replicas, and a metric that says
    whose clock wants a look.

    Attributes:
        offset: What must be added to the system's clock; shown even where it is too small to be applied.
    """

    def __init__(self, system: Clock | None = None) -> None:
        self._system = system or SystemClock()
        self._applied = timedelta()
        self.offset = timedelta()

    def now(self) -> datetime:
        return self._system.now() + self._applied

    def learn(self, theirs: datetime, asked: datetime, answered: datetime) -> bool:
        """Take note of the shared time.

        Args:
            theirs: What it was somewhere between the next two.
            asked: When the question went out, by the system's own clock.
            answered: When the answer came, by the same.

        Returns:
            Whether what `now` says changed by more than a reading's own uncertainty.
        """
        self.offset = theirs - (asked + (answered - asked) / 2)
        uncertain = TOLERANCE + (answered - asked) / 2
        wanted = self.offset if abs(self.offset) > uncertain else timedelta()
        if abs(wanted - self._applied) <= uncertain and bool(wanted) == bool(self._applied):
            return False
        self._applied = wanted
        return True

"""Time as something that is handed in, so that tests and replays can say what time it is."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """The current time: aware, UTC, whole microseconds."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

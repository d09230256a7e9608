"""What a worker does by the clock: each piece of work on its own, none of them able to end the others."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from sdx_hub.domain.errors import Unavailable
from sdx_hub.observing import observed

Work = Callable[[], Awaitable[object]]
_log = structlog.get_logger(__name__)


class Loops:
    """Repeated work of one process."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, seconds: float, work: Work, name: str) -> None:
        """Do `work` now, and then again `seconds` after each time that it ended."""
        observed.loop_failures[name] += 0  # So that the series is there before the first failure.
        self._tasks.append(asyncio.create_task(_repeat(seconds, work, name), name=name))

    async def stop(self) -> None:
        """Stop all of it; what is at work is cancelled, and its transaction rolled back."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task


async def _repeat(seconds: float, work: Work, name: str) -> None:
    while True:
        try:
            await work()
        except Unavailable as error:
            # The database is away for a while: that is no fault in here, and where it happened helps nobody.
            _log.warning("loop_waits", loop=name, code=error.code, error=str(error))
            observed.loop_failures[name] += 1
        except Exception:
            # A key may be missing: say so, and try again next time.
            _log.exception("loop_failed", loop=name)
            observed.loop_failures[name] += 1
        await asyncio.sleep(seconds)

"""Notices between replicas: who changed what others hold in memory tells them so, in the transaction that changes it.

PostgreSQL delivers a notice once its transaction is committed (`UnitOfWork.commit` sends it). A notice is a hint: it
can be lost with its connection, so whoever is told looks into the database, does so after each new connection as well,
and looks from time to time anyway. SQLite has no notices; the looks from time to time are all there is.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import structlog

from sdx_hub.persistence.database import Database

Callback = Callable[[], Awaitable[object]]

_GAP_S: Final = 0.05
"""Between two calls of a channel: a thousand enrolments a second are told in twenty calls."""
_ALIVE_S: Final = 10.0
"""How often the connection is tried; one whose server is gone says nothing by itself."""
_ANSWER_S: Final = 5.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 10.0
_log = structlog.get_logger(__name__)


class Notices:
    """One connection that listens, for one process.

    Args:
        database: Of any kind.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callbacks: dict[str, list[Callback]] = {}
        self._told: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._failures = 0

    def on(self, channel: str, callback: Callback) -> None:
        """Call back soon after each notice of a channel, at least once after the last one; before `start`."""
        self._callbacks.setdefault(channel, []).append(callback)
        self._told[channel] = asyncio.Event()

    def start(self) -> None:
        """Listen from now on, as soon as there is a connection."""
        if self._database.backend != "postgresql":
            return
        self._tasks = [asyncio.create_task(self._call_back(channel), name=channel) for channel in self._callbacks]
        self._tasks.append(asyncio.create_task(self._stay_connected(), name="notices"))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _call_back(self, channel: str) -> None:
        told = self._told[channel]
        while True:
            await told.wait()
            told.clear()  # Before the calls: a notice that comes during them is news to them.
            for callback in self._callbacks[channel]:
                try:
                    await callback()
                except Exception as error:
                    _log.warning("notice_not_followed", channel=channel, error=repr(error)[:200])
            await asyncio.sleep(_GAP_S)

    async def _stay_connected(self) -> None:
        while True:
            try:
                await self._listen()
            except Exception as error:
                self._failures += 1
                if self._failures == 1:
                    _log.warning("notices_not_heard", error=repr(error)[:200])
            longest_s = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(self._failures, 32))
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - replicas do not come back in step

    async def _listen(self) -> None:
        """Listen until the connection is lost, which is an exception."""
        lost = asyncio.Event()
        async with self._database.apart("notices") as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            try:
                driver.add_termination_listener(lambda _: lost.set())
                async with asyncio.timeout(_ANSWER_S):
                    for channel in self._callbacks:
                        await driver.add_listener(channel, self._note)
                for told in self._told.values():
                    told.set()  # Whatever was said while nobody listened.
                self._failures = 0
                while True:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_ALIVE_S):
                            await lost.wait()
                    await driver.fetchval("SELECT 1", timeout=_ANSWER_S)
            finally:
                driver.terminate()  # Not closed politely: that would wait for a server that may be gone.

    def _note(self, _driver: Any, _sender: int, channel: str, _payload: str) -> None:
        self._told[channel].set()

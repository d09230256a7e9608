"""Which replica looks after the rollouts: the one that holds a lock of the database's server.

Nothing rests on it but the others' time: a tick that two replicas make at once is made twice in turn, and the second
one finds nothing left to do. The lock belongs to a connection of its own, and is freed by the server with it, so that a
replica that dies is followed by another one at that one's next tick.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from sdx_hub.loops import Work
from sdx_hub.observing import ROLLOUT_LEADER, ROLLOUT_TICK, ROLLOUT_TICKED_S, observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.failures import connecting

_TRY: Final = text("SELECT pg_try_advisory_lock(7362610002)")
_STILL: Final = text("SELECT 1")
_PATIENCE_S: Final = 5.0
"""A server that does not answer for so long has perhaps given the lock to another one."""
_log = structlog.get_logger(__name__)


class Leadership:
    """Of one process. On SQLite there is one, and it leads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: AsyncConnection | None = None
        self._open = AsyncExitStack()
        self._leads = False

    async def leads(self) -> bool:
        """Whether this process leads now; it tries to, where nobody does.

        Raises:
            Unavailable: The database is away (code `database_unavailable`); then it leads no more.
        """
        if self._database.backend == "sqlite":
            observed.mark(ROLLOUT_LEADER, 1)
            return True
        with connecting():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    leads = await self._ask()
            except BaseException:
                await self.resign()
                raise
        if leads != self._leads:
            _log.info("rollouts_led_here", leads=leads)
        self._leads = leads
        observed.mark(ROLLOUT_LEADER, leads)
        return leads

    def only(self, work: Work) -> Work:
        """`work`, which is done only while this process leads."""

        async def led() -> None:
            if await self.leads():
                with observed.step(ROLLOUT_TICK):
                    await work()
                observed.mark(ROLLOUT_TICKED_S, time.time())

        return led

    async def resign(self) -> None:
        """Let another one lead."""
        observed.mark(ROLLOUT_LEADER, 0)
        self._leads, self._connection = False, None
        open_, self._open = self._open, AsyncExitStack()
        await open_.aclose()

    async def _ask(self) -> bool:
        if self._connection is None:
            self._connection = await self._open.enter_async_context(self._database.apart("rollouts"))
        leads = await self._connection.scalar(_STILL if self._leads else _TRY)
        # The lock is the session's: it outlives the transaction, which must not stay open.
        await self._connection.commit()
        return bool(leads)

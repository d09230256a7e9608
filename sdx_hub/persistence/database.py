"""The way into the database: readings that never block a writer, and one writer at a time, over all replicas.

So what a unit of work reads is still so when it writes, first inserts and counters included, on both backends: SQLite
has that rule anyway, on PostgreSQL an advisory lock makes it (docs/adr/0011).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Final, cast

from sqlalchemy import QueuePool, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from sdx_hub.adapters.clock import Clock, SystemClock
from sdx_hub.domain.errors import Unavailable
from sdx_hub.observing import DATABASE_READ, DATABASE_WRITE, observed
from sdx_hub.persistence.engines import Waits, postgresql_engine, sqlite_engine, unlimited_postgresql_engine
from sdx_hub.persistence.failures import connecting, reason, translated, unavailable
from sdx_hub.persistence.unit_of_work import UnitOfWork

TURN: Final = text("SELECT pg_advisory_xact_lock(7362610001)")
"""Whose turn it is to write: one number that all replicas know, freed by the server with the transaction's end."""


class Database:
    """Pools of connections and the lock between writers. Open it with `await Database.open(url)`."""

    def __init__(
        self, writer: AsyncEngine, reader: AsyncEngine, watcher: AsyncEngine, clock: Clock, waits: Waits
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._watcher = watcher
        self._clock = clock
        self._waits = waits
        # On PostgreSQL as well: one process then needs one connection to wait in line with the others.
        self._lock = asyncio.Lock()
        self._write_session = async_sessionmaker(writer, expire_on_commit=False)
        self._read_session = async_sessionmaker(reader, expire_on_commit=False)
        self._watch_session = async_sessionmaker(watcher, expire_on_commit=False)

    @classmethod
    async def open(cls, url: str, clock: Clock | None = None, waits: Waits | None = None) -> "Database":
        """Open the database; the tables must be there already (see `sdx_hub.migrations`).

        Args:
            url: `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://...`.
            clock: For the audit log; the system's where None.
            waits: What is given up when.

        Raises:
            Unavailable: It cannot be used; the message says why (code `database_unavailable`).
        """
        waits = waits or Waits()
        make = sqlite_engine if make_url(url).get_backend_name() == "sqlite" else postgresql_engine
        writer, reader, watcher = (make(url, waits, writes=writes) for writes in (True, False, False))
        database = cls(writer, reader, watcher, clock or SystemClock(), waits)
        try:
            async with database.writer.begin():
                pass  # A path that cannot be written, or a server that refuses us, fails here, at start-up.
        except (DBAPIError, OSError) as error:
            await database.close()
            raise Unavailable(
                f"The hub's database cannot be used: {reason(error)}. Look at database_url and at its server.",
                "database_unavailable",
            ) from error
        return database

    @property
    def writer(self) -> AsyncEngine:
        """For tests that look behind the services."""
        return self._writer

    @property
    def in_use(self) -> dict[str, int]:
        """Connections that are at work, by pool."""
        engines = {"writer": self._writer, "reader": self._reader}
        return {name: cast(QueuePool, engine.pool).checkedout() for name, engine in engines.items()}

    @property
    def backend(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._writer.url.get_backend_name()

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """One transaction, with the turn to write. Leaving without `await uow.commit()` rolls everything back.

        Raises:
            Unavailable: The turn did not come in time, or the database is away (code `database_unavailable`).
        """
        # Around the session as well: closing it rolls back, and a connection may break there.
        with observed.step(DATABASE_WRITE), translated():
            async with self._turn(), self._write_session() as session:
                uow = UnitOfWork(session, self._clock, notifies=self.backend == "postgresql")
                with connecting():
                    await session.connection()  # SQLite: BEGIN IMMEDIATE.
                if self.backend == "postgresql":
                    await session.execute(TURN)
                yield uow
        # Outside the lock: what runs after a commit may open a unit of work of its own.
        await uow.run_after_commit()

    @asynccontextmanager
    async def write_behind(self) -> AsyncIterator[AsyncSession]:
        """A transaction without the turn, for what nobody decides upon: when a device was last seen.

        It needs `await session.commit()`. On SQLite there is no writing without the turn.
        """
        turn = self._turn() if self.backend == "sqlite" else nullcontext()
        with translated():
            async with turn, self._write_session() as session:
                with connecting():
                    await session.connection()
                yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A consistent snapshot to read from."""
        with observed.step(DATABASE_READ), translated():
            async with self._read_session() as session:
                with connecting():
                    await session.connection()
                yield session

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[AsyncSession]:
        """A snapshot that never waits behind other readings: what polls are answered from must not be late."""
        with translated():
            async with self._watch_session() as session:
                with connecting():
                    await session.connection()
                yield session

    @asynccontextmanager
    async def schema_change(self) -> AsyncIterator[AsyncConnection]:
        """One transaction to change tables in, committed at its end: with the turn, and without limits of time."""
        async with self._turn():
            if self.backend == "sqlite":
                async with self._writer.begin() as connection:
                    yield connection
                return
            async with self.apart("migration") as connection, connection.begin():
                await connection.execute(TURN)
                yield connection

    @asynccontextmanager
    async def apart(self, name: str) -> AsyncIterator[AsyncConnection]:
        """A connection to PostgreSQL that is in no pool, and has no limits of time once it is there."""
        url = self._writer.url.render_as_string(hide_password=False)
        engine = unlimited_postgresql_engine(url, self._waits, name)
        try:
            async with engine.connect() as connection:
                yield connection
        finally:
            await engine.dispose()

    async def close(self) -> None:
        await self._writer.dispose()
        await self._reader.dispose()
        await self._watcher.dispose()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """The turn among this process's writers."""
        try:
            async with asyncio.timeout(self._waits.turn_s):
                await self._lock.acquire()
        except TimeoutError as error:
            raise unavailable(error) from error
        try:
            yield
        finally:
            self._lock.release()

"""The way into the database: readings that never block a writer, and one writer at a time.

SQLite: write-ahead log, `synchronous=FULL` (an acknowledged report survives a power cut), foreign keys, and
`BEGIN IMMEDIATE` for writers, because a transaction that upgrades from read to write fails with "database is locked"
no matter how long the busy timeout is. Readers get connections that cannot write at all.
PostgreSQL: the same two engines are one, and the server does the rest.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from sdx_hub.adapters.clock import Clock, SystemClock
from sdx_hub.persistence.unit_of_work import UnitOfWork

_BUSY_TIMEOUT_MS = 15_000
_READERS = 4


class Database:
    """Two engines and the lock between writers of this process. Open it with `await Database.open(url)`."""

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine, clock: Clock) -> None:
        self._writer = writer
        self._reader = reader
        self._clock = clock
        self._lock = asyncio.Lock()
        self._write_session = async_sessionmaker(writer, expire_on_commit=False)
        self._read_session = async_sessionmaker(reader, expire_on_commit=False)

    @classmethod
    async def open(cls, url: str, clock: Clock | None = None) -> "Database":
        """Open the database; the tables must be there already (see `sdx_hub.migrations`).

        Args:
            url: `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://...`.
            clock: For the audit log; the system's where None.
        """
        if make_url(url).get_backend_name() != "sqlite":
            engine = create_async_engine(url, pool_pre_ping=True)
            return cls(engine, engine, clock or SystemClock())
        writer = create_async_engine(url, pool_size=1, max_overflow=0)
        reader = create_async_engine(url, pool_size=_READERS, max_overflow=0)
        _prepare_sqlite(writer, "BEGIN IMMEDIATE", query_only=False)
        _prepare_sqlite(reader, "BEGIN", query_only=True)
        database = cls(writer, reader, clock or SystemClock())
        async with writer.begin():
            pass  # A path that cannot be written fails here, at start-up.
        return database

    @property
    def writer(self) -> AsyncEngine:
        """For migrations and for `create_all` in tests."""
        return self._writer

    @property
    def backend(self) -> str:
        return self._writer.url.get_backend_name()

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """One transaction. Leaving without `await uow.commit()` rolls everything back."""
        async with self._lock, self._write_session() as session:
            uow = UnitOfWork(session, self._clock)
            await session.connection()  # BEGIN IMMEDIATE now: what is read next is what is written upon.
            yield uow
        # Outside the lock: what runs after a commit may open a unit of work of its own.
        await uow.run_after_commit()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A consistent snapshot to read from."""
        async with self._read_session() as session:
            yield session

    async def close(self) -> None:
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


def _prepare_sqlite(engine: AsyncEngine, begin: str, *, query_only: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # The driver's own BEGIN comes too late and is never IMMEDIATE.
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        if query_only:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

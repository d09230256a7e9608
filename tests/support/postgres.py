"""One real PostgreSQL for each pytest process, and a fresh migrated database for each test that wants one."""

import asyncio
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from sqlmodel import SQLModel

import sdx_hub.persistence.tables  # noqa: F401 - fills the metadata
from sdx_hub import migrations
from sdx_hub.demo.servers.postgres import SUPERUSER, PostgresServer
from sdx_hub.persistence.database import Database

IN_A_HURRY = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
    "shared_buffers": "32MB",
}
"""Nothing of a test's database has to survive a loss of power."""
BACKENDS = ("sqlite", "postgresql")
_EMPTY = "".join(
    [
        "SET session_replication_role = replica;",  # Without triggers: they keep the logs append-only.
        *(f'DELETE FROM "{name}";' for name in SQLModel.metadata.tables),  # noqa: S608 - names of our own tables
        "SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S'",
    ]
)


class Databases:
    """Databases on one server: new ones, and one that is emptied before each use, which costs a fiftieth."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._shared = ""

    def new(self) -> str:
        """The URL of a new database without tables."""
        name = f"test_{next(self._numbers)}"
        _in_thread(_execute(self.server.url, f"CREATE DATABASE {name}"))
        return self.server.url_of(name)

    def drop(self, url: str) -> None:
        name = url.rpartition("/")[2]
        _in_thread(_execute(self.server.url, f"DROP DATABASE {name} WITH (FORCE)"))

    def emptied(self) -> str:
        """The URL of a migrated database without rows; one test at a time can have it."""
        if not self._shared:
            self._shared = self.new()
            _in_thread(_migrate(self._shared))
        else:
            _in_thread(_execute(self.server.url_of(self._shared.rpartition("/")[2], SUPERUSER), _EMPTY))
        return self._shared


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Where databases come from; the server starts with the first test that asks."""
    server = PostgresServer(tmp_path_factory.mktemp("server") / "postgres", IN_A_HURRY)
    server.start()
    yield Databases(server)
    server.stop("immediate")


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database on each backend; the tables are there on PostgreSQL, see `make_tables`."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
        return
    made: Databases = request.getfixturevalue("databases")
    yield made.emptied()


@pytest.fixture(params=BACKENDS)
def new_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a database without tables on each backend."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'new.db'}"
        return
    made: Databases = request.getfixturevalue("databases")
    url = made.new()
    yield url
    made.drop(url)


async def make_tables(database: Database) -> None:
    """The tables alone, which is quicker on SQLite than the steps that lead to them; on PostgreSQL they are there."""
    if database.backend == "sqlite":
        async with database.writer.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _migrate(url: str) -> None:
    database = await Database.open(url)
    await migrations.upgrade(database)
    await database.close()


def _in_thread(work: object) -> None:
    """Also where an event loop runs already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()

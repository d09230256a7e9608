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
from sdx_hub.demo.servers.postgres import PostgresServer
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
_TEMPLATE = "migrated"


class Databases:
    """Databases on one server, made by copying one that was migrated once."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self._numbers = itertools.count(1)
        self._has_template = False

    def new(self, *, empty: bool = False) -> str:
        """The URL of a new database; `empty` means without tables."""
        if not empty and not self._has_template:
            self._execute(f"CREATE DATABASE {_TEMPLATE}")
            _in_thread(_migrate(self.server.url_of(_TEMPLATE)))
            self._has_template = True
        name = f"test_{next(self._numbers)}"
        template = "template1" if empty else _TEMPLATE
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self.server.url_of(name)

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        _in_thread(_execute(self.server.url, statement))


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Where databases come from; the server starts with the first test that asks."""
    server = PostgresServer(tmp_path_factory.mktemp("server") / "postgres", IN_A_HURRY)
    server.start()
    yield Databases(server)
    server.stop("immediate")


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of a new database on each backend; the tables are there on PostgreSQL, see `make_tables`."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
        return
    made: Databases = request.getfixturevalue("databases")
    url = made.new()
    yield url
    made.drop(url)


async def make_tables(database: Database) -> None:
    """The tables alone, which is quicker on SQLite than the steps that lead to them; a copied database has them."""
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

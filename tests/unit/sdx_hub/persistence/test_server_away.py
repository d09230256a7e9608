"""PostgreSQL restarted, stopped, killed: what is asked meanwhile is refused as such, and no hand is needed after it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil
import pytest
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.demo.servers.postgres import PostgresServer
from sdx_hub.domain.errors import Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.engines import Waits
from sdx_hub.persistence.tables.audit import Counter
from tests.support.postgres import Databases


@pytest.fixture
async def database(databases: Databases) -> AsyncIterator[Database]:
    database = await Database.open(databases.emptied())
    yield database
    await database.close()


@pytest.fixture
async def server(databases: Databases) -> AsyncIterator[PostgresServer]:
    yield databases.server
    if not databases.server.running:
        await asyncio.to_thread(databases.server.start)


async def take(database: Database) -> int:
    async with database.unit_of_work() as uow:
        number = await uow.next_number("thing")
        await uow.commit()
    return number


async def read(database: Database) -> list[int]:
    async with database.reading() as session:
        return list(await session.scalars(select(col(Counter.value))))


async def warm(database: Database) -> None:
    """Have every connection of both pools open."""
    await asyncio.gather(*(read(database) for _ in range(8)), take(database))


async def test_after_a_restart_the_next_request_is_answered(database: Database, server: PostgresServer) -> None:
    """No request is spent on finding out that a kept connection is dead."""
    await warm(database)
    await asyncio.to_thread(server.restart)
    assert await asyncio.gather(*(read(database) for _ in range(8))) == [[1]] * 8
    assert await take(database) == 2


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_while_it_is_away_everything_says_so(database: Database, server: PostgresServer, kill: bool) -> None:
    await warm(database)
    await asyncio.to_thread(server.kill if kill else server.stop)
    for asked in (read, take, take, read):
        with pytest.raises(Unavailable) as refused:
            await asked(database)
        assert refused.value.code == "database_unavailable"
    with pytest.raises(Unavailable):
        async with database.write_behind():
            pass
    with pytest.raises(Unavailable, match="Connect call failed"):
        await Database.open(server.url)
    await asyncio.to_thread(server.start)
    assert await read(database) == [1]
    assert await take(database) == 2


async def test_a_transaction_that_it_dies_in_never_was(database: Database, server: PostgresServer) -> None:
    await take(database)
    with pytest.raises(Unavailable):
        async with database.unit_of_work() as uow:
            await uow.next_number("thing")
            await asyncio.to_thread(server.kill)
            await uow.commit()
    await asyncio.to_thread(server.start)
    assert await read(database) == [1]
    assert await take(database) == 2


async def test_a_reading_that_it_dies_in_says_so(database: Database, server: PostgresServer) -> None:
    await take(database)
    with pytest.raises(Unavailable):
        async with database.reading() as session:
            await session.scalars(select(col(Counter.value)))
            await asyncio.to_thread(server.restart, "immediate")
            await session.scalars(select(col(Counter.value)))
    assert await read(database) == [1]


async def test_a_wrong_password_is_named_at_the_start_and_not_shown(databases: Databases) -> None:
    password = (databases.server.folder / "password").read_text()
    with pytest.raises(Unavailable, match="password authentication failed") as refused:
        await Database.open(databases.server.url.replace(password, "wr0ng"))
    assert "wr0ng" not in str(refused.value)


@pytest.mark.parametrize("act", [read, take])
async def test_one_that_answers_nothing_any_more_is_given_up(
    databases: Databases, act: Callable[[Database], Awaitable[object]]
) -> None:
    """As a machine that has lost its power or its cable: its connections are open, and nothing comes."""
    waits = Waits(statement_s=0.3, change_s=0.3, answer_s=0.1, connect_s=0.3)
    database = await Database.open(databases.emptied(), waits=waits)
    await warm(database)
    postmaster = psutil.Process(databases.server.pid)
    stopped = [postmaster, *postmaster.children(recursive=True)]
    for each in stopped:
        each.suspend()
    try:
        for _ in range(2):
            async with asyncio.timeout(10):
                with pytest.raises(Unavailable):
                    await act(database)
    finally:
        for each in stopped:
            each.resume()
    assert await read(database) == [1]
    assert await take(database) == 2
    await database.close()

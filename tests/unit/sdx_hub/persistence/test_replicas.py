"""Two replicas on one database: whatever they race for, one of them has it, and none can hold up the other for long."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select, text
from sqlmodel import col

from sdx_hub.domain.errors import Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.engines import Waits
from sdx_hub.persistence.tables.audit import AuditEntry, Counter
from sdx_hub.services.audit_log import verify_chain
from tests.support.postgres import Databases, make_tables

QUICK = Waits(turn_s=3.0, idle_s=0.5, change_s=1.0)


@pytest.fixture
async def replicas(database_url: str) -> AsyncIterator[list[Database]]:
    opened = [await Database.open(database_url) for _ in range(2)]
    await make_tables(opened[0])
    yield opened
    for each in opened:
        await each.close()


@pytest.fixture
async def quick(databases: Databases) -> AsyncIterator[list[Database]]:
    """Two replicas on PostgreSQL that give up soon."""
    url = databases.emptied()
    opened = [await Database.open(url, waits=QUICK) for _ in range(2)]
    yield opened
    for each in opened:
        await each.close()


async def take(database: Database, counter: str) -> int:
    async with database.unit_of_work() as uow:
        number = await uow.next_number(counter)
        await uow.commit()
    return number


async def test_numbers_are_given_out_once_from_the_very_first_on(replicas: list[Database]) -> None:
    """The first number of a counter is an insert: without one writer at a time, both replicas would do it."""
    for counter in ("one", "two", "three"):
        taken = await asyncio.gather(*(take(replica, counter) for replica in replicas * 5))
        assert sorted(taken) == list(range(1, 11))


async def test_the_audit_chain_has_no_fork(replicas: list[Database]) -> None:
    async def work(database: Database, number: int) -> None:
        async with database.unit_of_work() as uow:
            await uow.audit("adam", "thing.do", str(number))
            await uow.audit("adam", "thing.undo", str(number))
            await uow.commit()

    await asyncio.gather(*(work(replicas[number % 2], number) for number in range(20)))
    async with replicas[0].reading() as session:
        assert await verify_chain(session) == 40
        actions = list(await session.scalars(select(col(AuditEntry.action)).order_by(col(AuditEntry.seq))))
    assert actions == ["thing.do", "thing.undo"] * 20


async def test_what_was_read_is_still_so_when_it_is_written(replicas: list[Database]) -> None:
    """The oldest mistake: look whether it is there, and add it where it is not."""
    made: list[int] = []

    async def make_once(database: Database, number: int) -> None:
        async with database.unit_of_work() as uow:
            if await uow.session.get(Counter, "once") is None:
                await asyncio.sleep(0.01)
                uow.session.add(Counter(name="once", value=number))
                made.append(number)
            await uow.commit()

    await asyncio.gather(*(make_once(replicas[number % 2], number) for number in range(8)))
    assert len(made) == 1


async def test_what_is_written_behind_waits_for_nobody(databases: Databases) -> None:
    database = await Database.open(databases.emptied())
    async with database.unit_of_work():
        async with database.write_behind() as session:
            await session.execute(text("INSERT INTO device_seen (number, last_seen_s) VALUES (1, 2)"))
            await session.commit()
        async with database.reading() as reading:
            assert await reading.scalar(text("SELECT last_seen_s FROM device_seen")) == 2
    await database.close()


async def test_a_replica_that_hangs_in_its_turn_loses_it(quick: list[Database]) -> None:
    """As one that is paused (SIGSTOP, a frozen machine): the server ends its transaction, and nothing is left of it."""
    hung, other = quick
    with pytest.raises(Unavailable) as refused:
        async with hung.unit_of_work() as uow:
            await uow.next_number("hung")
            assert await take(other, "other") == 1
            await uow.commit()
    assert refused.value.code == "database_unavailable"
    async with other.reading() as session:
        assert set(await session.scalars(select(col(Counter.name)))) == {"other"}
    assert await take(hung, "hung") == 1, "and it goes on as if nothing had been"


async def test_a_statement_that_takes_too_long_ends(quick: list[Database]) -> None:
    with pytest.raises(Unavailable):
        async with quick[0].unit_of_work() as uow:
            await uow.session.execute(text("SELECT pg_sleep(60)"))
    assert await take(quick[1], "other") == 1


async def test_a_turn_that_does_not_come_is_not_waited_for_for_ever(databases: Databases) -> None:
    url = databases.emptied()
    busy = await Database.open(url)
    waiting = await Database.open(url, waits=Waits(turn_s=0.2))
    async with busy.unit_of_work():
        answers = await asyncio.gather(*(take(waiting, "x") for _ in range(6)), return_exceptions=True)
        assert {getattr(answer, "code", answer) for answer in answers} == {"database_unavailable"}
    assert await take(waiting, "x") == 1
    for each in (busy, waiting):
        await each.close()


async def test_one_that_is_cancelled_in_its_turn_frees_it(quick: list[Database]) -> None:
    began = asyncio.Event()

    async def hold() -> None:
        async with quick[0].unit_of_work() as uow:
            await uow.next_number("held")
            began.set()
            await uow.session.execute(text("SELECT pg_sleep(0.9)"))

    holding = asyncio.create_task(hold())
    await began.wait()
    holding.cancel()
    assert await take(quick[1], "other") == 1
    with pytest.raises(asyncio.CancelledError):
        await holding
    assert await take(quick[0], "held") == 1


async def test_the_server_says_who_is_connected(databases: Databases) -> None:
    database = await Database.open(databases.emptied())
    async with database.unit_of_work() as uow, database.reading() as session:
        names = text("SELECT application_name FROM pg_stat_activity WHERE datname = current_database() ORDER BY 1")
        assert list(await session.scalars(names)) == ["sdx-hub reader", "sdx-hub writer"]
        assert await uow.session.scalar(select(func.current_setting("lock_timeout"))) == "15s"
    await database.close()

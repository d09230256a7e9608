"""Who is told of a change of another replica, how often, and what a lost connection does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sdx_hub.persistence.database import Database
from sdx_hub.persistence.notices import Notices
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, FLEET_CHANNEL, TRUST_CHANNEL, TRUST_COUNTER
from sdx_hub.services.repositories.metadata_store import MetadataStore
from sdx_hub.trust.online import OnlineSigners
from tests.support.postgres import Databases
from tests.support.trouble import NOTICES, Trouble


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.emptied()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = await Database.open(url)
    yield database
    await database.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[Database]:
    """Another replica's way to the database."""
    other = await Database.open(url)
    yield other
    await other.close()


async def commit(database: Database, counter: str) -> None:
    async with database.unit_of_work() as uow:
        await uow.next_number(counter)
        await uow.commit()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


class Told:
    """Counts its calls; may be held up in one."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self) -> None:
        self.calls += 1
        await self.may_end.wait()


@asynccontextmanager
async def listening(database: Database, **channels: Callable[[], object]) -> AsyncIterator[None]:
    notices = Notices(database)
    for channel, callback in channels.items():
        notices.on(channel, callback)  # type: ignore[arg-type]
    notices.start()
    try:
        yield
    finally:
        await notices.stop()


async def test_each_channel_is_told_of_its_own_changes(database: Database, other: Database) -> None:
    fleet, trust = Told(), Told()
    async with listening(other, **{FLEET_CHANNEL: fleet, TRUST_CHANNEL: trust}):
        await until(lambda: (fleet.calls, trust.calls) == (1, 1))  # Once they are connected.
        await commit(database, DEVICE_CHANGE_COUNTER)
        await until(lambda: fleet.calls == 2)
        await commit(database, TRUST_COUNTER)
        await until(lambda: trust.calls == 2)
        assert fleet.calls == 2


async def test_many_notices_are_few_calls_and_the_last_one_is_not_lost(database: Database, other: Database) -> None:
    told = Told()
    async with listening(other, **{FLEET_CHANNEL: told}):
        await until(lambda: told.calls == 1)
        told.may_end.clear()
        for _ in range(50):
            await commit(database, DEVICE_CHANGE_COUNTER)
        await until(lambda: told.calls == 2)
        told.may_end.set()
        await until(lambda: told.calls == 3)
        await commit(database, DEVICE_CHANGE_COUNTER)
        await until(lambda: told.calls == 4)


async def test_a_callback_that_fails_is_called_again(database: Database, other: Database) -> None:
    calls = 0

    async def fails() -> None:
        nonlocal calls
        calls += 1
        raise OSError("the database is away")

    after = Told()
    notices = Notices(other)
    notices.on(FLEET_CHANNEL, fails)
    notices.on(FLEET_CHANNEL, after)
    notices.start()
    await until(lambda: after.calls == 1)
    await commit(database, DEVICE_CHANGE_COUNTER)
    await until(lambda: (calls, after.calls) == (2, 2))
    await notices.stop()


async def test_a_listener_comes_back_by_itself(
    database: Database, other: Database, databases: Databases, url: str
) -> None:
    told, trouble = Told(), Trouble(databases, url)
    with trouble.away():
        notices = Notices(other)
        notices.on(FLEET_CHANNEL, told)
        notices.start()
        await asyncio.sleep(0.2)
        assert told.calls == 0
    await until(lambda: told.calls == 1)
    trouble.cut(NOTICES)
    await until(lambda: told.calls == 2)
    await commit(database, DEVICE_CHANGE_COUNTER)
    await until(lambda: told.calls == 3)
    await notices.stop()
    await until(lambda: not trouble.backends(NOTICES))


async def test_new_metadata_is_known_to_the_other_replica_when_it_is_told(
    database: Database, other: Database, tmp_path: Path
) -> None:
    store = MetadataStore(other, OnlineSigners(tmp_path))
    await store.look()
    before = store.number
    async with listening(other, **{TRUST_CHANNEL: store.look}):
        await commit(database, TRUST_COUNTER)
        await until(lambda: store.number == before + 1)


async def test_sqlite_has_no_notices(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    told = Told()
    async with listening(database, **{FLEET_CHANNEL: told}):
        await asyncio.sleep(0.05)
    assert told.calls == 0
    await database.close()

"""Which replica ticks, and who does when it dies."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from sdx_hub.domain.errors import Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.services.rollouts.engine.leadership import Leadership
from tests.support.postgres import Databases
from tests.unit.sdx_hub.services.conftest import MovableClock

_END_THE_LEADER = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks "
    "WHERE locktype = 'advisory' AND objid = 7362610002 % 4294967296 AND granted"
)


async def test_on_sqlite_there_is_one_and_it_leads(tmp_path: Path, clock: MovableClock) -> None:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", clock)
    assert await Leadership(database).leads()
    await database.close()


@pytest.fixture
async def replicas(databases: Databases, clock: MovableClock) -> AsyncIterator[list[Database]]:
    url = databases.emptied()
    both = [await Database.open(url, clock) for _ in range(2)]
    yield both
    for database in both:
        await database.close()


async def test_one_leads_until_it_resigns(replicas: list[Database]) -> None:
    one, other = map(Leadership, replicas)
    assert [await one.leads(), await other.leads(), await one.leads()] == [True, False, True]
    await one.resign()
    assert [await other.leads(), await one.leads()] == [True, False]
    done = []

    async def work() -> None:
        done.append(True)

    await one.only(work)()
    assert done == []
    await other.only(work)()
    assert done == [True]
    await one.resign()
    await other.resign()


async def test_another_one_leads_when_the_server_lost_the_first(replicas: list[Database]) -> None:
    one, other = map(Leadership, replicas)
    assert [await one.leads(), await other.leads()] == [True, False]
    async with replicas[1].unit_of_work() as uow:
        await uow.session.execute(_END_THE_LEADER)
    assert await other.leads()
    with pytest.raises(Unavailable):
        await one.leads()
    assert not await one.leads()
    await one.resign()
    await other.resign()

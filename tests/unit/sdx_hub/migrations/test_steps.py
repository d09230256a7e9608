"""Every step, on both backends, up and down, on a database that is in use."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from alembic import command
from sqlalchemy import MetaData, Table, func, inspect, select
from sqlalchemy.engine import Connection

from sdx_hub import migrations
from sdx_hub.persistence.database import Database
from tests.unit.sdx_hub.migrations.rows import STEPS, in_use, upgrade
from tests.unit.sdx_hub.migrations.schema import differences, left_over

VERSION_TABLE = "alembic_version"


@pytest.fixture
async def database(new_database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(new_database_url)
    yield database
    await database.close()


def count(connection: Connection) -> dict[str, int]:
    """Rows by table."""
    names = [name for name in inspect(connection).get_table_names() if name != VERSION_TABLE]
    tables = {name: Table(name, MetaData(), autoload_with=connection) for name in names}
    return {
        name: connection.execute(select(func.count()).select_from(table)).scalar_one() for name, table in tables.items()
    }


def down(connection: Connection, version: str) -> None:
    command.downgrade(migrations.config(connection), version)


@pytest.mark.parametrize("version", STEPS)
async def test_there_are_rows_for_every_table(database: Database, version: str) -> None:
    """So that whoever adds a step is told to add rows: `tests/unit/sdx_hub/migrations/rows.py`."""
    async with database.schema_change() as connection:
        await connection.run_sync(in_use, version)
        assert {name for name, rows in (await connection.run_sync(count)).items() if not rows} == set()


@pytest.mark.parametrize("version", STEPS)
async def test_a_step_goes_down_and_up_again_with_data(database: Database, version: str) -> None:
    """Tables that are there on both sides lose no row."""
    before = "base" if version == STEPS[0] else STEPS[STEPS.index(version) - 1]
    async with database.schema_change() as connection:
        await connection.run_sync(in_use, version)
        full = await connection.run_sync(count)
    async with database.schema_change() as connection:
        await connection.run_sync(down, before)
        smaller = await connection.run_sync(count)
        assert smaller == {name: rows for name, rows in full.items() if name in smaller}
        if before == "base":
            assert await connection.run_sync(left_over) == set()
    async with database.schema_change() as connection:
        await connection.run_sync(upgrade, version)
        again = await connection.run_sync(count)
        assert {name: again[name] for name in smaller} == smaller
        assert again.keys() == full.keys()
    async with database.schema_change() as connection:
        await connection.run_sync(upgrade, "head")
        assert await connection.run_sync(differences) == []


async def test_replicas_that_start_at_once_migrate_once(new_database_url: str) -> None:
    replicas = [await Database.open(new_database_url) for _ in range(3)]
    ran: list[str] = []
    steps = migrations.finish

    def finish(connection: Connection) -> None:
        ran.append(migrations.version_of(connection))
        steps(connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "finish", finish)
        before = await asyncio.gather(*(migrations.upgrade(replica) for replica in replicas))
    assert ran == [""]
    assert set(before) <= {"", migrations.HEAD}
    for replica in replicas:
        assert await migrations.state(replica) == ("current", migrations.HEAD)
        await replica.close()

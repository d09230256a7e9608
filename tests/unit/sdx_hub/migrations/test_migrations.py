"""The steps lead to exactly the tables that the program uses, up and down, and keep the logs append-only."""

import io
from collections.abc import AsyncIterator

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from sdx_hub import migrations
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database
from tests.unit.sdx_hub.migrations.rows import in_use
from tests.unit.sdx_hub.migrations.schema import differences, left_over, shape


@pytest.fixture
async def database(new_database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(new_database_url)
    yield opened
    await opened.close()


async def names(database: Database) -> set[str]:
    async with database.writer.connect() as connection:
        return await connection.run_sync(left_over)


def test_head_is_what_the_steps_say() -> None:
    assert ScriptDirectory.from_config(migrations.config()).get_heads() == [migrations.HEAD]


async def test_the_migrated_schema_is_that_of_the_tables(database: Database) -> None:
    assert await migrations.state(database) == ("new", "")
    assert await migrations.upgrade(database) == ""
    async with database.writer.connect() as connection:
        assert await connection.run_sync(differences) == []
    assert await migrations.state(database) == ("current", migrations.HEAD)
    assert await migrations.upgrade(database) == migrations.HEAD


async def test_constraints_are_those_of_the_tables_too(database: Database) -> None:
    """`compare_metadata` does not look at CHECK constraints and partial indexes; the databases' own words have them."""
    async with database.schema_change() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
        created = await connection.run_sync(shape)
        await connection.run_sync(SQLModel.metadata.drop_all)
    await migrations.upgrade(database)
    async with database.writer.connect() as connection:
        assert await connection.run_sync(shape) == created
    assert created.keys() >= SQLModel.metadata.tables.keys()


async def test_a_step_that_fails_leaves_the_database_as_it_was(database: Database) -> None:
    async with database.writer.begin() as connection:
        await connection.execute(text("CREATE TABLE proposal (id INTEGER)"))
    with pytest.raises(Exception, match="proposal"):
        await migrations.upgrade(database)
    assert await names(database) == {"proposal"}


@pytest.mark.parametrize("verb", ["UPDATE audit_entry SET actor = 'x'", "DELETE FROM audit_entry"])
async def test_the_audit_log_is_append_only(database: Database, verb: str) -> None:
    await migrations.upgrade(database)
    async with database.unit_of_work() as uow:
        await uow.audit("alice", "thing.do", "it")
        await uow.commit()
    with pytest.raises(IntegrityError, match="audit_entry is append-only"):
        async with database.writer.begin() as connection:
            await connection.execute(text(verb))


@pytest.mark.parametrize("verb", ["UPDATE device_event SET kind = 'x'", "DELETE FROM device_event"])
async def test_a_timeline_is_append_only(database: Database, verb: str) -> None:
    await migrations.upgrade(database)
    async with database.writer.begin() as connection:
        await connection.run_sync(in_use, migrations.HEAD)
    with pytest.raises(IntegrityError, match="device_event is append-only"):
        async with database.writer.begin() as connection:
            await connection.execute(text(verb))


async def test_a_database_of_a_newer_program_is_refused(database: Database) -> None:
    await migrations.upgrade(database)
    async with database.writer.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConflictError, match="newer sdx") as refused:
        await migrations.upgrade(database)
    assert refused.value.code == "database_newer"


def test_the_steps_can_be_written_for_postgresql() -> None:
    """Offline: every statement renders in PostgreSQL's dialect, with 64-bit columns where numbers can be large."""
    config = migrations.config()
    config.output_buffer = io.StringIO()
    command.upgrade(config, "head", sql=True)
    sql = config.output_buffer.getvalue()
    assert sql.count("CREATE TABLE") == len(SQLModel.metadata.tables) + 1
    assert "BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entry" in sql
    assert "release_counter BIGINT NOT NULL" in sql
    assert "TIMESTAMP WITH TIME ZONE" in sql
    assert "INTEGER PRIMARY KEY" not in sql

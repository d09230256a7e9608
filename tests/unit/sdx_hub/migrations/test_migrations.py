"""The steps lead to exactly the tables that the program uses, up and down, and keep the logs append-only."""

import io
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from sdx_hub import migrations
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence import tables
from sdx_hub.persistence.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> Any:
    opened = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    yield opened
    await opened.close()


def differences(connection: Connection) -> list[Any]:
    assert tables.__all__
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, SQLModel.metadata))


async def names(database: Database, kind: str) -> set[str]:
    async with database.reading() as session:
        found = await session.execute(text("SELECT name FROM sqlite_master WHERE type = :kind"), {"kind": kind})
        return {name for (name,) in found if not name.startswith("sqlite_")}


def test_head_is_what_the_steps_say() -> None:
    assert ScriptDirectory.from_config(migrations.config()).get_heads() == [migrations.HEAD]


async def test_the_migrated_schema_is_that_of_the_tables(database: Database) -> None:
    assert await migrations.state(database) == ("new", "")
    assert await migrations.upgrade(database) == ""
    async with database.writer.connect() as connection:
        assert await connection.run_sync(differences) == []
    assert await migrations.state(database) == ("current", migrations.HEAD)
    assert await migrations.upgrade(database) == migrations.HEAD


async def test_constraints_are_those_of_the_tables_too(tmp_path: Path) -> None:
    """`compare_metadata` does not look at CHECK constraints and partial indexes; SQLite's own text has them."""

    async def shapes(name: str, *, migrated: bool) -> dict[str, set[str]]:
        opened = await Database.open(f"sqlite+aiosqlite:///{tmp_path / name}")
        if migrated:
            await migrations.upgrade(opened)
        else:
            async with opened.writer.begin() as connection:
                await connection.run_sync(SQLModel.metadata.create_all)
        async with opened.reading() as session:
            rows = await session.execute(
                text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type IN ('table', 'index')")
            )
            shape = {
                name: {line.strip().rstrip(",") for line in sql.replace(" WHERE ", "\nWHERE ").splitlines()}
                for name, sql in rows
                if name != "alembic_version"
            }
        await opened.close()
        return shape

    assert await shapes("migrated.db", migrated=True) == await shapes("created.db", migrated=False)


async def test_down_leaves_nothing(database: Database) -> None:
    await migrations.upgrade(database)
    async with database.writer.begin() as connection:
        await connection.run_sync(lambda sync: command.downgrade(migrations.config(sync), "base"))
    assert await names(database, "table") == {"alembic_version"}
    assert await names(database, "trigger") == set()
    await migrations.upgrade(database)
    async with database.writer.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_step_that_fails_leaves_the_database_as_it_was(database: Database) -> None:
    async with database.writer.begin() as connection:
        await connection.execute(text("CREATE TABLE proposal (id INTEGER)"))
    with pytest.raises(Exception, match="proposal"):
        await migrations.upgrade(database)
    assert await names(database, "table") == {"proposal"}


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
        await connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        device = (
            "INSERT INTO device (id, number, serial, device_key, hardware, state, token_sha256, report_counter, "
            "desired_version, has_assignment, has_inventory, rotation_wanted, change_seq, created_at, agent_version) "
            "VALUES ('d-1', 1, 's', 'k', 'h', 'accepted', 't', 0, 0, 0, 0, 0, 1, '2026-01-01 00:00:00', '')"
        )
        await connection.execute(text(device))
        event = (
            "INSERT INTO device_event (device_id, time, kind, detail) VALUES ('d-1', '2026-01-01 00:00:00', 'k', '')"
        )
        await connection.execute(text(event))
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

"""What a database's schema is, in the database's own words."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlmodel import SQLModel

from sdx_hub.persistence import tables


def differences(connection: Connection) -> list[Any]:
    """Between the schema and the program's tables, as far as Alembic looks."""
    assert tables.__all__
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return list(compare_metadata(context, SQLModel.metadata))


def shape(connection: Connection) -> dict[str, set[str]]:
    """Columns, constraints and indexes, also those that Alembic does not compare: CHECK, and partial indexes."""
    if connection.dialect.name == "sqlite":
        rows = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND type IN ('table', 'index')")
        )
        return {
            name: {line.strip().rstrip(",") for line in sql.replace(" WHERE ", "\nWHERE ").splitlines()}
            for name, sql in rows
            if name != "alembic_version"
        }
    found: dict[str, set[str]] = {}
    for statement in _POSTGRESQL_SHAPE:
        for table, definition in connection.execute(text(statement)):
            found.setdefault(table, set()).add(definition)
    found.pop("alembic_version", None)
    return found


_POSTGRESQL_SHAPE = (
    "SELECT conrelid::regclass::text, conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE connamespace = 'public'::regnamespace",
    "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "SELECT table_name, concat_ws(' ', column_name, data_type, character_maximum_length, is_nullable, column_default) "
    "FROM information_schema.columns WHERE table_schema = 'public'",
)


def left_over(connection: Connection) -> set[str]:
    """Tables, triggers, sequences and functions, apart from the note of the version."""
    statement = _LEFT_OVER[connection.dialect.name]
    return {name for (name,) in connection.execute(text(statement)) if not name.startswith(("sqlite_", "alembic_"))}


_LEFT_OVER = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type IN ('table', 'trigger')",
    "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') "
    "UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
}

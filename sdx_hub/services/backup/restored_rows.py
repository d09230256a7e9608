"""All rows of a backup into a database that holds no hub, in one transaction."""

import msgspec
import zstandard
from sqlalchemy import column, func, insert, inspect, select, table, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql.expression import TableClause
from sqlmodel import col

from sdx_hub import migrations
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.failures import reason, translated
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.backup.archive import BackupFile
from sdx_hub.services.backup.form import COLUMNS, Progress, TableForm, damaged, table_of
from sdx_hub.services.devices.desired_state import mark, open_actions
from sdx_hub.services.outcomes.carrying import carry_over
from sdx_hub.services.outcomes.superseding import NO_ROLLOUT

SKIPPED = 1_000_000
"""Desired states of each device: more than any hub makes between a backup and its loss."""
_MAX_LINES_BYTES = 256 * 1024**2


async def require_empty(file: BackupFile, database: Database) -> None:
    """Return if the database holds no hub, before anything else is done.

    Raises:
        ConflictError: There is one (code `database_not_empty`).
    """
    with translated():
        async with database.writer.connect() as connection:
            await connection.run_sync(_require_empty, file)


async def fill_database(file: BackupFile, database: Database, clock: Clock, progress: Progress) -> int:
    """Make the tables as they were, fill them, and bring them to this program's version; return the number of rows.

    Raises:
        ConflictError: There is a hub (code `database_not_empty`), or the database takes the rows for wrong
            (`rows_refused`).
        TrustError: The file is not what it says (code `backup_damaged`).
        Unavailable: The database is away (code `database_unavailable`).
    """
    header = file.header
    forms = {form.name: form for form in header.tables}
    counts = dict.fromkeys(forms, 0)
    with translated():
        async with database.schema_change() as connection:
            await connection.run_sync(_require_empty, file)
            await connection.run_sync(migrations.rebuild, header.schema)
            await connection.run_sync(_require_form, forms)
            for entry in file.names():
                if (name := table_of(entry)) is not None:
                    counts[name] += await _insert(connection, forms[name], _rows(forms[name], entry, file.read(entry)))
                    progress(file.size(entry))
            if counts != file.rows:
                raise damaged("its tables have not as many rows as its index says")
            if database.backend == "postgresql":
                for form in header.tables:
                    await _set_sequences(connection, form)
            await connection.run_sync(migrations.finish)
            await _begin_anew(connection, clock, file)
    return sum(counts.values())


async def _begin_anew(connection: AsyncConnection, clock: Clock, file: BackupFile) -> None:
    """Say every desired state anew, and note in the audit log that what came after the backup is gone.

    Craft may have seen desired states that were made after the backup. Were their numbers used a second time, those
    craft would take the new ones for the old, which they have done: so they are skipped.
    """
    async with AsyncSession(connection, expire_on_commit=False) as session:
        uow = UnitOfWork(session, clock, notifies=False)
        seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        known = col(Device.state) != "revoked"
        count = await mark(session, seq, known, has_assignment=col(Device.has_assignment), step=SKIPPED)
        await carry_over(session, seq, NO_ROLLOUT, SKIPPED)
        await open_actions(
            session, seq, clock.now(), ended="superseded", code="hub_restored", why="the hub was restored"
        )
        backup_time = file.header.time.isoformat()
        await uow.audit(
            "hub", "hub.restore", "hub", backup_time=backup_time, rows=sum(file.rows.values()), devices=count
        )
        await uow.commit()


def _require_empty(connection: Connection, file: BackupFile) -> None:
    """Return if there are no tables of a hub, or none of them has a row: then a start of the hub has made them."""
    version = migrations.version_of(connection)
    if version and version not in migrations.known():
        raise _not_empty(f"its tables are at version {version}, which this program does not know")
    for name in set(inspect(connection).get_table_names()) & {form.name for form in file.header.tables}:
        if not version:
            raise _not_empty(f"it has a table {name} already")
        if connection.execute(select(text("1")).select_from(table(name)).limit(1)).first() is not None:
            raise _not_empty(f"its table {name} has rows")


def _not_empty(why: str) -> ConflictError:
    return ConflictError(
        f"The database is not empty: {why}. Restore into a new database (a new data folder, or CREATE DATABASE and its "
        "name in database_url).",
        "database_not_empty",
    )


def _require_form(connection: Connection, forms: dict[str, TableForm]) -> None:
    """Return if the tables of that version are those of the file, column for column."""
    look = inspect(connection)
    there = {
        name: {column["name"] for column in look.get_columns(name)}
        for name in look.get_table_names()
        if name != "alembic_version"
    }
    brought = {name: {column for column, _ in form.columns} for name, form in forms.items()}
    different = [name for name in there.keys() | brought.keys() if there.get(name) != brought.get(name)]
    if different:
        raise damaged(f"its table {min(different)!r} is not that of version {migrations.version_of(connection)}")


def _rows(form: TableForm, entry: str, packed: bytes) -> list[dict[str, object]]:
    try:
        if not 0 <= zstandard.frame_content_size(packed) <= _MAX_LINES_BYTES:
            raise damaged(f"{entry} is too large")
        lines = zstandard.ZstdDecompressor().decompress(packed)
        values = msgspec.json.Decoder(form.row).decode_lines(lines)
    except (zstandard.ZstdError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(f"{entry} cannot be read: {error}") from error
    names = [name for name, _ in form.columns]
    return [dict(zip(names, row, strict=True)) for row in values]


async def _insert(connection: AsyncConnection, form: TableForm, rows: list[dict[str, object]]) -> int:
    try:
        if rows:
            await connection.execute(insert(_clause(form)), rows)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise ConflictError(
            f"The database does not take rows of {form.name}: {reason(error)}. Nothing was restored.", "rows_refused"
        ) from error
    return len(rows)


def _clause(form: TableForm) -> TableClause:
    return table(form.name, *(column(name, COLUMNS[kind]) for name, kind in form.columns))


async def _set_sequences(connection: AsyncConnection, form: TableForm) -> None:
    """Have what numbers a column by itself go on behind the largest number."""
    for name in (name for name, kind in form.columns if kind == "integer"):
        asked = {"table": form.name, "column": name}
        find = text("SELECT pg_get_serial_sequence(quote_ident(:table), :column)")
        if (sequence := await connection.scalar(find, asked)) is None:
            continue
        last = await connection.scalar(select(func.max(column(name))).select_from(table(form.name)))
        if last is not None:
            go_on = text("SELECT setval(CAST(:sequence AS regclass), :last)")
            await connection.execute(go_on, {"sequence": sequence, "last": last})

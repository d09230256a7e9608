"""Connections as the hub needs them: what SQLite and PostgreSQL have to be told before the first statement.

SQLite: write-ahead log, `synchronous=FULL` (an acknowledged report survives a power cut), foreign keys, and
`BEGIN IMMEDIATE` for writers, because a transaction that upgrades from read to write fails with "database is locked"
no matter how long the busy timeout is. Readers get connections that cannot write at all.

PostgreSQL: writers are READ COMMITTED, so that each statement sees what was committed before the writer's turn came
(under REPEATABLE READ the snapshot would be as old as the wait for it). Readers are REPEATABLE READ and READ ONLY: one
consistent snapshot each, as on SQLite. The server ends what hangs, because a paused replica cannot do that itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import NullPool, event
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from sdx_hub.domain.errors import BadInput

READERS = 4
"""Connections of one process to read with."""
WRITERS = 2
"""One for the writer whose turn it is, one for what is written behind."""
_MIN_INTEGER, _MAX_INTEGER = -(2**63), 2**63 - 1


class Waits(Struct, frozen=True):
    """How long things may take before they are given up.

    Attributes:
        turn_s: Until it is a writer's turn.
        idle_s: Between two statements of a writer: one that hangs there would hold up every replica.
        reading_idle_s: Between two statements of a reader, which holds up nobody: a backup writes to a slow disk.
        statement_s: One statement of a reader.
        change_s: One statement of a writer: taking a release away from a million devices is one, and must not fail.
        answer_s: What a server may take beyond that to say so; one whose machine is gone never does.
        connect_s: Until there is a connection.
    """

    turn_s: float = 15.0
    idle_s: float = 10.0
    reading_idle_s: float = 600.0
    statement_s: float = 30.0
    change_s: float = 300.0
    answer_s: float = 15.0
    connect_s: float = 5.0


def sqlite_engine(url: str, waits: Waits, *, writes: bool) -> AsyncEngine:
    """Connections to a SQLite file."""
    engine = create_async_engine(url, pool_size=1 if writes else READERS, max_overflow=0)
    pragmas = [
        f"busy_timeout={int(waits.turn_s * 1000)}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"query_only={'OFF' if writes else 'ON'}",
    ]

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # The driver's own BEGIN comes too late and is never IMMEDIATE.
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    _refuse_what_cannot_be_stored(engine)
    return engine


def postgresql_engine(url: str, waits: Waits, *, writes: bool) -> AsyncEngine:
    """Connections to a PostgreSQL server, replaced where the server has closed them."""
    idle_s = waits.idle_s if writes else waits.reading_idle_s
    statement_s = waits.change_s if writes else waits.statement_s
    engine = create_async_engine(
        url,
        pool_size=WRITERS if writes else READERS,
        max_overflow=0,
        pool_timeout=waits.turn_s,
        isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
        execution_options={} if writes else {"postgresql_readonly": True},
        connect_args={
            "timeout": waits.connect_s,
            "command_timeout": statement_s + waits.answer_s,
            "server_settings": _SERVER_SETTINGS
            | {
                "application_name": f"sdx-hub {'writer' if writes else 'reader'}",
                "lock_timeout": _ms(waits.turn_s),
                "statement_timeout": _ms(statement_s),
                "idle_in_transaction_session_timeout": _ms(idle_s),
            },
        },
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def on_checkout(connection: Any, _entry: ConnectionPoolEntry, _proxy: Any) -> None:
        # The driver hears of it when the server closes a connection; a ping would cost each use three round trips.
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    @event.listens_for(engine.sync_engine, "handle_error")
    def on_error(context: ExceptionContext) -> Exception | None:
        # No answer in time, or a socket that broke: errors of Python's own, which SQLAlchemy passes on.
        # Nobody knows what such a connection would say next.
        if not isinstance(context.original_exception, OSError):
            return None
        context.is_disconnect = True
        return OperationalError(None, None, context.original_exception, connection_invalidated=True)

    _refuse_what_cannot_be_stored(engine)
    return engine


def unlimited_postgresql_engine(url: str, waits: Waits, name: str) -> AsyncEngine:
    """For what takes as long as it takes: one change of the schema, waiting for notices."""
    settings = _SERVER_SETTINGS | {"application_name": f"sdx-hub {name}"}
    arguments = {"timeout": waits.connect_s, "server_settings": settings}
    return create_async_engine(url, poolclass=NullPool, connect_args=arguments)


_SERVER_SETTINGS = {
    # A replica whose machine is gone is noticed, and its transaction ended, after about 11 s.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    # What is acknowledged survives a power cut, whatever the server's own configuration says of other databases.
    "synchronous_commit": "on",
    # Compiling costs more than all of our statements; the driver's own look at types is slowed by it as well.
    "jit": "off",
}


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))


def _refuse_what_cannot_be_stored(engine: AsyncEngine) -> None:
    """PostgreSQL stores no NUL in a text, SQLite cuts some functions off there: no such text comes in at all."""

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def on_execute(_connection: Any, _cursor: Any, _statement: str, parameters: Any, *_: Any) -> None:
        # One statement for many rows is called many as well, and has the values of all of them in one tuple.
        for row in parameters if isinstance(parameters, list) else (parameters,):
            for value in _values(row):
                if isinstance(value, str) and ("\0" in value or not _encodes(value)):
                    raise BadInput("A text holds a character that is none (NUL or half of a pair).", "text_invalid")
                if isinstance(value, int) and not _MIN_INTEGER <= value <= _MAX_INTEGER:
                    raise BadInput("A number does not fit into 64 bits.", "number_out_of_bounds")


def _values(row: Mapping[str, Any] | Sequence[Any] | None) -> Iterator[Any]:
    if row is None:
        return
    for value in row.values() if isinstance(row, Mapping) else row:
        if isinstance(value, list | tuple):
            yield from value
        else:
            yield value


def _encodes(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

"""Statements of a database, as they go to the driver: counted, or cut off at one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from sdx_hub.persistence.database import Database


class Cut(Exception):
    """What a process that dies at this statement leaves, the server sees as well: no commit."""


@contextmanager
def recorded(database: Database) -> Iterator[list[str]]:
    """Statements of the writer while this is open."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(" ".join(statement.split()))

    engine = database.writer.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


@contextmanager
def cut_at(database: Database, nth: int) -> Iterator[list[str]]:
    """The writer's `nth` statement from here on is not done, and raises `Cut`; the list has those before it."""
    seen: list[str] = []

    def cut(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if len(seen) == nth:
            raise Cut(statement[:80])
        seen.append(statement)

    engine = database.writer.sync_engine
    event.listen(engine, "before_cursor_execute", cut)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", cut)

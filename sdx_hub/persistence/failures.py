"""What an error of the database means for whoever asked: come again (503), or do not send this (400).

Refused constraints stay what they are, `sqlalchemy.exc.IntegrityError`: only a service knows what they say. Whatever
is left is a fault of the hub.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sdx_hub.domain.errors import BadInput, HubError, Unavailable
from sdx_hub.observing import DATABASE_ERRORS, observed

_AWAY_CLASSES: Final = frozenset({"08", "40", "53", "57", "58"})
"""SQLSTATE classes (PostgreSQL, appendix A): connection lost, rolled back, no resources, operator, system error."""
_AWAY: Final = frozenset({"25006", "25P03", "55P03"})
"""A server that only reads (it was demoted), a transaction that idled too long, a lock that did not come."""
_DATA_CLASS: Final = "22"
_log = structlog.get_logger(__name__)


@contextmanager
def translated() -> Iterator[None]:
    """Around statements.

    Raises:
        Unavailable: The database is busy or away (code `database_unavailable`).
        BadInput: A value does not fit (code `value_out_of_bounds`).
    """
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        meant = _meaning(error)
        if meant is None:
            raise
        raise meant from error


@contextmanager
def connecting() -> Iterator[None]:
    """Around getting a connection: whatever goes wrong there, the database cannot be used now.

    Raises:
        Unavailable: The log has the reason (code `database_unavailable`).
    """
    try:
        yield
    except (DBAPIError, PoolTimeout, OSError) as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> Unavailable:
    """The refusal for clients; what it was is for the log."""
    _log.error("database_failed", error=reason(error))
    observed.count(DATABASE_ERRORS)
    return Unavailable(
        "The hub's database is busy or away. Try again; look first where the same request twice would do harm.",
        "database_unavailable",
    )


def reason(error: Exception) -> str:
    """What the driver said, without the statement and its values."""
    told = error.orig if isinstance(error, DBAPIError) else error
    return f"{type(told).__name__}: {told}"[:200]


def _meaning(error: DBAPIError | PoolTimeout) -> HubError | None:
    if isinstance(error, PoolTimeout):
        return unavailable(error)
    if isinstance(error, IntegrityError):
        return None
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if error.connection_invalidated or state[:2] in _AWAY_CLASSES or state in _AWAY:
        return unavailable(error)
    if isinstance(error, OperationalError | InternalError):
        # SQLite: locked, disk full, input/output error. asyncpg: the connection broke in the middle of something, and
        # the rollback finds it there ("cannot switch to state").
        return unavailable(error)
    if state[:2] == _DATA_CLASS or isinstance(getattr(error.orig, "__cause__", None), ValueError):
        return BadInput("A value is longer or larger than the hub stores.", "value_out_of_bounds")
    return None

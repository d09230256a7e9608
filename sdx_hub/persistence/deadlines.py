"""Readings that somebody asked for in his own words end after a time, whatever the words were."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from sdx_hub.domain.errors import Unavailable

_QUERY_CANCELED: Final = "57014"
"""SQLSTATE (PostgreSQL, appendix A)."""


@asynccontextmanager
async def deadline(session: AsyncSession, seconds: float) -> AsyncIterator[None]:
    """Each statement in here takes at most so long; after a longer one the session is good for nothing more.

    Raises:
        Unavailable: One took longer (code `query_timeout`).
    """
    connection = await session.connection()
    timers: list[asyncio.Task[None]] = []
    if connection.dialect.name == "postgresql":
        await session.execute(select(func.set_config("statement_timeout", str(int(seconds * 1000)), True)))
    else:
        driver = (await connection.get_raw_connection()).driver_connection
        timers.append(asyncio.create_task(_interrupt(driver, seconds)))
    try:
        yield
    except DBAPIError as error:
        if not _ran_out(error):
            raise
        raise Unavailable(
            f"This query took longer than {seconds:g} s and was stopped. Narrow it: begin with a tag, a hardware or "
            "a version.",
            "query_timeout",
        ) from error
    finally:
        for timer in timers:
            timer.cancel()


async def _interrupt(driver: Any, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await driver.interrupt()


def _ran_out(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == _QUERY_CANCELED or str(error.orig) == "interrupted"

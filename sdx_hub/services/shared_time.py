"""Keeps the hub's clock at the database server's, so that all replicas live in one time.

The price: whoever rules the database server's clock rules the hub's. They rule its database anyway, and craft trust
neither (docs/adr/0006): a craft checks signed expiries against a time of its own.
"""

import structlog
from sqlalchemy import text

from sdx_hub.adapters.clock import CorrectedClock, SystemClock
from sdx_hub.persistence.database import Database

LOOK_S = 10.0
_log = structlog.get_logger(__name__)


class SharedTime:
    """Looks at the server's clock.

    Args:
        database: A SQLite database has no clock of its own: then nothing happens.
        clock: Set right.
    """

    def __init__(self, database: Database, clock: CorrectedClock) -> None:
        self._database = database
        self._clock = clock
        self._system = SystemClock()

    async def look(self) -> None:
        """Compare once; at the start before anything is signed, and then every `LOOK_S`.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, OSError: The database does not answer; the last correction stays.
        """
        if self._database.backend == "sqlite":
            return
        async with self._database.reading() as session:
            await session.connection()  # Waiting for one must not count as the answer's way.
            asked = self._system.now()
            theirs = await session.scalar(text("SELECT clock_timestamp()"))
            answered = self._system.now()
        if self._clock.learn(theirs, asked, answered):
            _log.warning("clock_off", offset_s=round(self._clock.offset.total_seconds(), 3))

"""A PostgreSQL as an operator or an accident treats it: connections cut, gone, or silent."""

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import asyncpg

from tests.support.postgres import Databases

HUBS = "sdx-hub%"
NOTICES = "sdx-hub notices"


class Trouble:
    """For the connections of hubs to one database.

    Args:
        databases: On the server.
        url: Of the database.
    """

    def __init__(self, databases: Databases, url: str) -> None:
        self._address = databases.server.url.replace("+asyncpg", "")
        self._name = url.rpartition("/")[2]

    def backends(self, name: str = HUBS) -> list[int]:
        """Processes that serve connections."""
        statement = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE $2"
        return [row["pid"] for row in self._fetch(statement, self._name, name)]

    def cut(self, name: str = HUBS) -> None:
        """End connections."""
        for pid in self.backends(name):
            self._fetch("SELECT pg_terminate_backend($1)", pid)

    @contextmanager
    def away(self) -> Iterator[None]:
        """No connection stays, and none comes about."""
        self._fetch(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false')
        try:
            self.cut()
            yield
        finally:
            self._fetch(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS true')

    @contextmanager
    def silent(self) -> Iterator[None]:
        """The connections that there are stay, and say nothing."""
        stopped = self.backends()
        assert stopped
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    def _fetch(self, statement: str, *values: object) -> list[Any]:
        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(self._address)
            try:
                return list(await connection.fetch(statement, *values))
            finally:
                await connection.close()

        # In a thread: the caller may have an event loop of its own.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, fetch()).result()

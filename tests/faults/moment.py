"""What a hub process was doing when it was killed, as PostgreSQL saw it a millisecond before."""

import asyncio

import asyncpg
import psutil

_LOOK = """
    SELECT client_port, xact_start IS NOT NULL AS in_transaction,
        EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND locktype = 'advisory' AND granted)
            AS holds_lock
    FROM pg_stat_activity WHERE client_port IS NOT NULL AND pid <> pg_backend_pid()
"""


class Moments:
    """Counts them.

    Attributes:
        leader: Kills of the one that held an advisory lock outside a transaction: the leader's.
        in_transaction: Kills in the middle of a transaction.
        kills: All.
    """

    def __init__(self, database_url: str) -> None:
        self._dsn = database_url.replace("+asyncpg", "")
        self.kills = self.leader = self.in_transaction = 0

    def __str__(self) -> str:
        return f"{self.leader} of the leader, {self.in_transaction} in a transaction"

    def look(self, pid: int) -> None:
        """Count what the process tree with this root does now."""
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        ports = {line.laddr.port for process in processes for line in process.net_connections() if line.laddr}
        rows = [row for row in asyncio.run(self._rows()) if row["client_port"] in ports]
        self.kills += 1
        self.in_transaction += any(row["in_transaction"] for row in rows)
        self.leader += any(row["holds_lock"] and not row["in_transaction"] for row in rows)

    async def _rows(self) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self._dsn)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(_LOOK)
            return rows
        finally:
            await connection.close()

"""Who polled: collected in memory, and written behind, one statement a second.

This is the only thing that a crash may lose: sightings since the last statement, a second's worth, or those of an
outage of the database, which ends soon for devices as well (see `FleetState.ensure_fresh`). Their next poll makes up
for it. Reports never go this way: they are acknowledged after the commit.
"""

import json
from collections.abc import Callable

from sqlalchemy import text

from sdx_hub.adapters.clock import Clock
from sdx_hub.persistence.database import Database


class Sightings:
    """The write-behind of last-seen.

    Args:
        database: With the tables.
        clock: What is written is its time at the flush.
        elapsed_s: For ages.

    Attributes:
        seen: Numbers of devices that polled since the last flush; the poll adds to it.
    """

    def __init__(self, database: Database, clock: Clock, elapsed_s: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._elapsed_s = elapsed_s
        self._since_s = elapsed_s()
        self.seen: set[int] = set()

    def lag_s(self) -> float:
        """Age of the oldest sighting that is not written yet, at the most."""
        return self._elapsed_s() - self._since_s if self.seen else 0.0

    async def flush(self) -> None:
        """Write who was seen; what cannot be written now is written next time."""
        if not self.seen:
            self._since_s = self._elapsed_s()
            return
        seen, self.seen = self.seen, set()
        since_s, self._since_s = self._since_s, self._elapsed_s()
        try:
            async with self._database.write_behind() as session:
                if self._database.backend == "postgresql":
                    await session.execute(_DO_NOT_WAIT)
                # As JSON: an array costs the hub half as much again, and saves the server less. Sorted: replicas that
                # write the same devices do it in the same order, so that none waits for the other in turn.
                numbers = json.dumps(sorted(seen), separators=(",", ":"))
                now_s = int(self._clock.now().timestamp())
                await session.execute(_SEEN[self._database.backend], {"numbers": numbers, "now": now_s})
                await session.commit()
        except BaseException:
            self.seen |= seen
            self._since_s = since_s
            raise


_DO_NOT_WAIT = text("SET LOCAL synchronous_commit TO off")
"""What a crash of the hub may lose, a crash of the server may lose as well: nobody waits for its disk."""

_SEEN = {
    "sqlite": text(
        "INSERT INTO device_seen (number, last_seen_s) SELECT value, :now FROM json_each(:numbers) WHERE true "
        "ON CONFLICT (number) DO UPDATE SET last_seen_s = excluded.last_seen_s"
    ),
    "postgresql": text(
        "INSERT INTO device_seen (number, last_seen_s) "
        "SELECT CAST(value AS bigint), :now FROM json_array_elements_text(CAST(:numbers AS json)) "
        "ON CONFLICT (number) DO UPDATE SET last_seen_s = excluded.last_seen_s"
    ),
}

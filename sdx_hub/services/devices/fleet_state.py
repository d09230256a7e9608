"""The poll's memory as a part of the hub: read from the database, kept right, and never believed for too long.

The database is the truth. Changes are found by `device.change_seq`: at once after a change by this process and at a
notice of another one's, and by a loop in any case. What is in memory counts for `stale_s` from the moment at which the
last look at the database *began*, by a clock that goes on while the process or the machine is stopped. After that no
device is answered from it, so that everything that was committed is obeyed everywhere `stale_s` later at the latest,
revocations above all (docs/adr/0012).
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import structlog
from msgspec import Struct

from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX
from firmware_schemas.ids import DeviceId
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import NotAuthenticated, Unavailable
from sdx_hub.domain.spreading import spread_s
from sdx_hub.loops import Loops
from sdx_hub.persistence import device_feed
from sdx_hub.persistence.database import Database
from sdx_hub.services.devices.first_uses import write_first_uses
from sdx_hub.services.devices.fleet_memory import FleetMemory
from sdx_hub.services.devices.sightings import Sightings

_LOOK_AGAIN_S: Final = 0.05
_PATIENCE_S: Final = 1.0
"""So long may a look take that a device waits for."""
_SILENCE_S: Final = 5.0
"""A look that hears nothing from the database for so long is given up."""
_log = structlog.get_logger(__name__)


class PollSettings(Struct, frozen=True):
    """How devices poll, and how the hub keeps up.

    Attributes:
        interval_s, jitter_s: What devices are told.
        refresh_s: Between two looks for changes that nobody told of.
        flush_s: Between two writings of who was seen.
        stale_s: So long counts what a look found, from its beginning.
    """

    interval_s: int = 60
    jitter_s: int = 15
    refresh_s: float = 0.4
    flush_s: float = 1.0
    stale_s: float = 10.0


class FleetFigures(Struct, frozen=True):
    """For metrics.

    Attributes:
        devices: By state.
        staleness_s: Age of what is in memory now.
        write_behind_pending: Sightings that are not written yet.
        write_behind_lag_s: Age of the oldest of them, at the most.
        last_refresh_rows: Devices that the last look with a result has found changed.
    """

    devices: dict[str, int]
    staleness_s: float
    write_behind_pending: int
    write_behind_lag_s: float
    last_refresh_rows: int


elapsed_s: Final = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Seconds of a clock that nobody sets, and that a stopped process and a machine that sleeps do not stop.

Not a function of ours: each poll calls it.
"""


class FleetState:
    """One for each process.

    Args:
        database: With the tables.
        clock: For what is written.
        settings: See there.
        now_s: For ages; see `elapsed_s`.

    Attributes:
        memory: What polls are answered from, while `now_s() <= fresh_until_s`.
        sightings: Who polled.
    """

    def __init__(
        self, database: Database, clock: Clock, settings: PollSettings, now_s: Callable[[], float] = elapsed_s
    ) -> None:
        self._database = database
        self._clock = clock
        self.settings = settings
        self.now_s = now_s
        self.memory = FleetMemory(settings.interval_s, settings.jitter_s)
        self.sightings = Sightings(database, clock, now_s)
        self.fresh_until_s = float("-inf")
        self._last_seq = -1
        self._last_rows = 0
        self._began_s = self._looked_s = float("-inf")
        self._failed = False
        self._looking = asyncio.Lock()
        self._looking_again = asyncio.Lock()
        self._loops = Loops()

    async def load(self) -> None:
        """Read every device; the poll answers after that."""
        await self.catch_up()

    def start(self) -> None:
        """Start the loops of refreshing and flushing."""
        self._loops.every(self.settings.refresh_s, self._refresh, "fleet-refresh")
        self._loops.every(self.settings.flush_s, self._flush, "fleet-flush")

    async def stop(self) -> None:
        """Stop the loops and write what they still hold; where the database is away, it is lost."""
        await self._loops.stop()
        try:
            await self.flush()
        except Exception as error:
            _log.warning("fleet_flush_lost", sightings=len(self.sightings.seen), error=repr(error)[:200])

    async def catch_up(self) -> None:
        """Apply every change that was committed before this call; callers at the same time share one look.

        Raises:
            Unavailable: The database is away, or says nothing (code `database_unavailable`).
        """
        arrived_s = self.now_s()
        async with self._looking:
            if self._looked_s > arrived_s:
                return
            self._began_s = began_s = self.now_s()
            try:
                seq, rows = await self._look()
            except BaseException as error:
                self._failed = True
                if isinstance(error, TimeoutError):
                    raise Unavailable("The hub's database says nothing.", "database_unavailable") from error
                raise
            # Only now: a look that broke off half-way is done again, and devices may share a change number.
            self._last_seq, self._last_rows = seq, rows or self._last_rows
            self._looked_s, self._failed = began_s, False
            self.fresh_until_s = began_s + self.settings.stale_s

    async def ensure_fresh(self) -> None:
        """Return if what is in memory counts, after a look at the database where it has become too old.

        Raises:
            Unavailable: The database could not be asked (code `fleet_state_stale`): nobody knows whom it has revoked.
        """
        if self.now_s() <= self.fresh_until_s:
            return
        if not self._in_trouble():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._look_again()
            except Exception as error:
                _log.warning("fleet_look_failed", error=repr(error)[:200])
        if self.now_s() > self.fresh_until_s:
            raise Unavailable(
                "The hub cannot reach its database, and what it knows of devices is too old to act upon. Come later.",
                "fleet_state_stale",
                retry_after_s=spread_s(self.settings.interval_s),
            )

    async def find(self, token: bytes) -> int | None:
        """The slot of a token, the slow way: it may be a new one, or what is in memory may be too old.

        Raises:
            Unavailable: See `ensure_fresh`; or the database is away, and nobody can tell about this token.
        """
        await self.ensure_fresh()
        slot = self.memory.slot_of(token)
        if slot is None:
            await self._look_again()
            await self.ensure_fresh()
            slot = self.memory.slot_of(token)
        return slot

    async def authenticate(self, token: str) -> DeviceId:
        """Return the accepted device whose poll token this is.

        Raises:
            NotAuthenticated: Nobody's (code `token_unknown`).
            NotAllowed: The device is pending or revoked.
            Unavailable: See `find`.
        """
        slot = None
        if token.startswith(DEVICE_TOKEN_PREFIX):
            slot = await self.find(token.encode("utf-8", "replace"))
        if slot is None:
            raise NotAuthenticated("This device token is not known here. Enrol the device again.", "token_unknown")
        self.memory.refuse_unless_accepted(slot)
        return self.memory.device_id(slot)

    async def flush(self) -> None:
        """Write who was seen, and which announced tokens were used."""
        await self.sightings.flush()
        rotated = dict(self.memory.rotated)
        if not rotated:
            return
        await write_first_uses(self._database, self._clock, rotated)
        # A look that began before the commit would bring the old token back: they go once a later one has ended.
        await self.catch_up()
        for slot, digest in rotated.items():
            if self.memory.rotated.get(slot) == digest:
                del self.memory.rotated[slot]

    def figures(self) -> FleetFigures:
        """What an operator watches."""
        return FleetFigures(
            devices=self.memory.counts(),
            staleness_s=self.now_s() - self._looked_s,
            write_behind_pending=len(self.sightings.seen),
            write_behind_lag_s=self.sightings.lag_s(),
            last_refresh_rows=self._last_rows,
        )

    async def _look(self) -> tuple[int, int]:
        """Read what changed; returns the number of the last change, and of how many devices there was news."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_SILENCE_S) as silence, self._database.watching() as session:
            seq, number = await device_feed.newest(session)
            if seq == self._last_seq:
                return seq, 0
            self.memory.reserve(number)

            def take(rows: Iterable[device_feed.DeviceRow]) -> None:
                self.memory.apply(rows)
                silence.reschedule(loop.time() + _SILENCE_S)

            return seq, await device_feed.changed_since(self._database, session, self._last_seq, take)

    async def _look_again(self) -> None:
        """Know what was committed before this call; bounded: guessing tokens causes twenty small queries a second."""
        arrived_s = self.now_s()
        async with self._looking_again:
            if self._looked_s > arrived_s:
                return  # Somebody else looked in the meantime.
            await asyncio.sleep(max(0.0, self._began_s + _LOOK_AGAIN_S - self.now_s()))
            await self.catch_up()

    def _in_trouble(self) -> bool:
        """Whether the database was asked a moment ago and did not answer, so that a device need not wait for it."""
        since_s = self.now_s() - self._began_s
        return since_s > _PATIENCE_S if self._looking.locked() else self._failed and since_s < _PATIENCE_S

    async def _refresh(self) -> None:
        failed = self._failed
        try:
            await self.catch_up()
        except Exception as error:
            if not failed:
                _log.error("fleet_refresh_failed", error=repr(error)[:200])
        else:
            if failed:
                _log.info("fleet_refreshed_again", rows=self._last_rows)

    async def _flush(self) -> None:
        if not self._failed:  # The database is away: what was seen waits.
            await self.flush()

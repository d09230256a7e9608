"""The engine's tick upon PostgreSQL, for one rollout with 10,000, 100,000 and 1,000,000 devices.

    prepare     from the order until every member is written and the first wave is open
    idle        a tick in which nothing changed
    busy        a tick after 1,000 devices reported success: their outcomes are counted, 1,000 others are offered the
                release, and each of those has a new desired state, a new action and a line in its timeline
    reports     what the hub writes for a signed result, of 200 in one transaction, as it takes them at the most

Times are medians, statements are all that this process sent to the database in the tick, the turn to write and the
refresh of the poll's memory included; every 15 s there is one more, which looks for rollouts that have ended. The
devices are rows (bench/fleet_of_rows.py), and members by the hub's own preparing. Engine and database share the
machine; PostgreSQL has every commit on the disk before it is acknowledged.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct, structs
from sqlalchemy import Engine, event, select, text
from sqlmodel import col

from bench import fleet_of_rows, hubs
from firmware_schemas.device_api import Envelope, Report, ResultReport
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.domain.rollout.ordering import seed_of
from sdx_hub.domain.rollout.policy import Limits, Order, Soak
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice
from sdx_hub.services.devices import report_effects
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.devices.reports import MAX_DEVICES
from sdx_hub.services.rollouts.engine.engine import RolloutEngine
from tests.support.publisher import Payload

SIZES = (10_000, 100_000, 1_000_000)
CHANGED = 1_000
"""Devices that report and that are offered the release, in a busy tick."""
IDLE, BUSY = 11, 5
"""So many ticks of a kind."""
RELEASE = "bench@1.0.0"
_UNSIGNED = Envelope("", "")
"""A result is verified before it comes here, and leaves nothing of its envelope."""


class Point(Struct, frozen=True):
    """The costs at one size; times in milliseconds where nothing else is said."""

    prepare_s: float
    idle_ms: float
    idle_statements: int
    busy_ms: float
    busy_statements: int
    report_ms: float
    most_statements: int


ROWS = {
    "idle_ms": "an idle tick, ms",
    "idle_statements": "statements of it",
    "busy_ms": f"a tick with {CHANGED:,} results and {CHANGED:,} offers, ms",
    "busy_statements": "statements of it",
    "most_statements": "the most of any tick",
    "report_ms": "a result, ms",
    "prepare_s": "to prepare, s",
}


class Statements:
    """Counts what is sent to the database.

    Attributes:
        sent: So many statements.
    """

    def __init__(self) -> None:
        self.sent = 0

    def __call__(self, *_: object) -> None:
        self.sent += 1


@contextmanager
def counted() -> Iterator[Statements]:
    """Count all statements of this process."""
    statements = Statements()
    event.listen(Engine, "before_cursor_execute", statements)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", statements)


class Bench:
    """One hub's engine in this process.

    Args:
        database: With the devices.
        fleet: Loaded.
    """

    def __init__(self, database: Database, fleet: FleetState) -> None:
        clock = SystemClock()
        self._database, self._clock = database, clock
        self._engine = RolloutEngine(database, clock, fleet)
        self._statements = Statements()

    async def measure(self, changed: int, idle: int, busy: int) -> Point:
        with counted() as statements:
            self._statements = statements
            prepare_s = await self._prepare(changed)
            idle_ticks = [await self._tick() for _ in range(idle)]
            reports, busy_ticks = [], []
            for _ in range(busy):
                reports.append(await self._report(changed) / changed)
                busy_ticks.append(await self._tick())
                await self._expect_in_flight(changed)
        return Point(
            prepare_s=round(prepare_s, 1),
            idle_ms=_median_ms([took for took, _ in idle_ticks]),
            idle_statements=min(sent for _, sent in idle_ticks),
            busy_ms=_median_ms([took for took, _ in busy_ticks]),
            busy_statements=min(sent for _, sent in busy_ticks),
            report_ms=_median_ms(reports),
            most_statements=max(sent for _, sent in [*idle_ticks, *busy_ticks]),
        )

    async def _prepare(self, changed: int) -> float:
        """Order it, and tick until the first devices have their offer."""
        order = Order(
            release=RELEASE, waves=("100%",), limits=Limits(in_flight=changed), soak=Soak(), silent_after_s=3_600
        )
        began = time.perf_counter()
        async with self._database.unit_of_work() as uow:
            uow.session.add(
                Rollout(
                    number=1,
                    release_id=RELEASE,
                    product=RELEASE.partition("@")[0],
                    state="preparing",
                    spec=msgspec.json.encode(order).decode(),
                    seed=seed_of(order),
                    priority=order.priority,
                    created_by="bench",
                    created_at=self._clock.now(),
                )
            )
            await uow.commit()
        while await self._state() == "preparing":
            await self._engine.tick()
        took = time.perf_counter() - began
        while not await self._in_flight():
            await self._engine.tick()
        await self._expect_in_flight(changed)
        return took

    async def _tick(self) -> tuple[float, int]:
        """Seconds, and statements."""
        before, began = self._statements.sent, time.perf_counter()
        await self._engine.tick()
        return time.perf_counter() - began, self._statements.sent - before

    async def _report(self, count: int) -> float:
        """So many devices under way end well; return the seconds that it took."""
        numbers = (await self._in_flight())[:count]
        began = time.perf_counter()
        for start in range(0, count, MAX_DEVICES):
            await self._report_together(numbers[start : start + MAX_DEVICES])
        return time.perf_counter() - began

    async def _report_together(self, numbers: Sequence[int]) -> None:
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            found = await uow.session.scalars(select(Device).where(col(Device.number).in_(numbers)))
            for device in found.all():
                result = ResultReport(f"{device.id}.{device.desired_version}", "success", {"bench": "1.0.0"})
                report = Report(device.id, device.report_counter + 1, 0, result)
                await report_effects.apply(uow, device, report, _UNSIGNED, now)
            await uow.commit()

    async def _in_flight(self) -> Sequence[int]:
        async with self._database.reading() as session:
            found = await session.scalars(
                select(col(RolloutDevice.number)).where(col(RolloutDevice.state) == "offered")
            )
            return found.all()

    async def _expect_in_flight(self, count: int) -> None:
        if (found := len(await self._in_flight())) != count:
            raise RuntimeError(f"{found} devices have an offer, and not {count}.")

    async def _state(self) -> str:
        async with self._database.reading() as session:
            return str(await session.scalar(select(col(Rollout.state))))


@asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Bench]:
    database = await Database.open(database_url)
    try:
        fleet = FleetState(database, SystemClock(), PollSettings())
        await fleet.load()
        yield Bench(database, fleet)
    finally:
        await database.close()


async def work(database_url: str, changed: int, idle: int, busy: int) -> Point:
    async with opened(database_url) as bench:
        return await bench.measure(changed, idle, busy)


def measure(folder: Path, size: int, changed: int = CHANGED, idle: int = IDLE, busy: int = BUSY) -> Point:
    """A new database with so many devices, and one rollout to all of them."""
    with hubs.postgres(folder / "postgres") as server, hubs.fleet_on(folder / "fleet", server.url) as fleet:
        example = fleet_of_rows.enrol_first(fleet)
        fleet.publisher.publish("bench", "1.0.0", [Payload("app", b"bench 1.0.0")])
        fleet.hub.stop()
        fleet_of_rows.load(server.url, example, 0, size - 1)
        asyncio.run(seen(server.url))
        return asyncio.run(work(server.url, changed, idle, busy))


async def seen(database_url: str) -> None:
    """Every device polled a moment ago."""
    database = await Database.open(database_url)
    try:
        async with database.writer.begin() as connection:
            await connection.execute(text(_SEEN), {"now": int(time.time())})
    finally:
        await database.close()


_SEEN = """
    INSERT INTO device_seen (number, last_seen_s) SELECT number, :now FROM device WHERE true
    ON CONFLICT (number) DO UPDATE SET last_seen_s = excluded.last_seen_s
"""


def _median_ms(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds) * 1000, 2)


def table(found: dict[int, Point]) -> str:
    """Rows for docs/performance.md."""
    lines = [
        f"| PostgreSQL | {' | '.join(f'{size:,}' for size in found)} |",
        f"|---|{'---|' * len(found)}",
        *(
            f"| {shown} | {' | '.join(f'{getattr(point, name):,g}' for point in found.values())} |"
            for name, shown in ROWS.items()
        ),
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="growing, from 6,000 on")
    chosen = parser.parse_args()
    found = {}
    for size in chosen.sizes:
        with tempfile.TemporaryDirectory(prefix="sdx-bench-") as folder:
            found[size] = measure(Path(folder), size)
        print(f"{size:,} devices: {json.dumps(structs.asdict(found[size]))}", flush=True)
    print(table(found))
    bounded = len({(point.idle_statements, point.busy_statements) for point in found.values()}) == 1
    points = {size: structs.asdict(point) for size, point in found.items()}
    first, last = found[min(found)], found[max(found)]
    print(
        json.dumps(
            {
                "devices": points,
                "statements_equal": bounded,
                "busy_ratio": round(last.busy_ms / first.busy_ms, 2),
                "idle_ratio": round(last.idle_ms / first.idle_ms, 2),
            }
        )
    )
    return 0 if bounded else 1


if __name__ == "__main__":
    sys.exit(main())

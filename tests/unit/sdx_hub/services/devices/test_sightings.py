"""Last-seen is written behind: nothing that was seen is forgotten while the hub lives, and its age is known."""

import asyncio

import pytest
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import DeviceSeen
from sdx_hub.services.devices.sightings import Sightings
from tests.unit.sdx_hub.services.conftest import START, MovableClock
from tests.unit.sdx_hub.services.devices.test_staleness import Elapsed

START_S = int(START.timestamp())


async def stored(database: Database) -> dict[int, int]:
    async with database.reading() as session:
        rows = await session.execute(select(col(DeviceSeen.number), col(DeviceSeen.last_seen_s)))
        return {row.number: row.last_seen_s for row in rows}


async def test_the_age_of_what_is_not_written_is_known(database: Database, clock: MovableClock) -> None:
    elapsed = Elapsed()
    sightings = Sightings(database, clock, elapsed)
    elapsed.s += 5
    assert sightings.lag_s() == 0.0, "nothing waits"
    await sightings.flush()
    elapsed.s += 1
    sightings.seen.add(1)
    assert sightings.lag_s() == 1.0
    await sightings.flush()
    assert sightings.lag_s() == 0.0


async def test_what_cannot_be_written_waits_and_grows_old(
    database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    elapsed = Elapsed()
    sightings = Sightings(database, clock, elapsed)
    real = database.write_behind

    def away() -> None:
        sightings.seen.add(2)  # A poll that comes in the meantime.
        raise ConnectionResetError

    monkeypatch.setattr(database, "write_behind", away)
    sightings.seen.add(1)
    for _ in range(3):
        elapsed.s += 1
        with pytest.raises(ConnectionResetError):
            await sightings.flush()
    assert sightings.seen == {1, 2}
    assert sightings.lag_s() == 3.0
    monkeypatch.setattr(database, "write_behind", real)
    await sightings.flush()
    assert await stored(database) == {1: START_S, 2: START_S}
    assert sightings.lag_s() == 0.0


async def test_replicas_that_see_the_same_devices_do_not_stop_each_other(
    database: Database, database_url: str, clock: MovableClock
) -> None:
    other = await Database.open(database_url, clock)
    first, second = Sightings(database, clock, Elapsed()), Sightings(other, clock, Elapsed())
    for _ in range(10):
        first.seen.update(range(1, 2000))
        second.seen.update(range(1999, 0, -1))
        await asyncio.gather(first.flush(), second.flush())
    await other.close()
    assert await stored(database) == dict.fromkeys(range(1, 2000), START_S)

"""Devices that match later come into the last wave, and only devices that changed are looked at."""

from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import col

from sdx_hub.domain.rollout.policy import Order
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import DeviceEvent
from sdx_hub.persistence.tables.filters import SavedFilter
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice, RolloutOutcome, RolloutStratum, RolloutWave
from sdx_hub.services.devices.devices import DeviceService
from sdx_hub.services.rollouts.planning import joining
from sdx_hub.services.rollouts.planning.joining import join
from sdx_hub.services.rollouts.planning.preparing import Preparer
from sdx_hub.services.rollouts.records.rollout_rows import order_of
from tests.unit.sdx_hub.services.conftest import OPERATOR, START, MovableClock
from tests.unit.sdx_hub.services.rollouts.planned import PlannedFleet
from tests.unit.sdx_hub.services.rollouts.test_preparing import finish

MEMBER = (
    col(RolloutDevice.position),
    col(RolloutDevice.number),
    col(RolloutDevice.wave),
    col(RolloutDevice.stratum),
    col(RolloutDevice.site),
    col(RolloutDevice.state),
)


class Setup(PlannedFleet):
    def __init__(self, database: Database, clock: MovableClock) -> None:
        super().__init__(database, clock)
        self.devices = DeviceService(database, clock)

    async def running(self, **order: Any) -> None:
        """Four devices with a tag, in waves of 1 and all; more come later."""
        for number in range(4):
            await self.device(f"A{number}", tags=["alpha"], site="north")
        release = await self.release("steady@2.0.0", hardware=("rpi4",))
        await self.rollout(self.order(release, **({"query": "tag = alpha", "join": True} | order), waves=("1", "100%")))
        await finish(self, Preparer(self.database, self.clock))

    async def happened(self, serial: str, kind: str = "enrolled") -> None:
        async with self.database.unit_of_work() as uow:
            uow.session.add(DeviceEvent(device_id=self.ids[serial], time=START, kind=kind, detail="{}"))
            await uow.commit()

    async def join(self) -> int:
        async with self.database.unit_of_work() as uow:
            row = await uow.session.get(Rollout, 1)
            assert row is not None
            order: Order = order_of(row)
            count = await join(uow, row, order, self.clock.now())
            await uow.commit()
            return count

    async def newcomers(self) -> list[tuple[Any, ...]]:
        return [row for row in await self.rows(RolloutDevice, *MEMBER) if row[0] > 4]


@pytest.fixture
def hub(database: Database, clock: MovableClock) -> Setup:
    return Setup(database, clock)


async def test_a_device_that_begins_to_match_joins_the_last_wave(hub: Setup) -> None:
    await hub.running()
    number = await hub.device("A9", site="north")
    assert await hub.join() == 0
    await hub.devices.tag(OPERATOR, "A9", "alpha")
    assert await hub.join() == 1
    assert await hub.newcomers() == [(5, number, 2, 1, "north", "queued")]
    assert await hub.rows(RolloutWave, col(RolloutWave.wave), col(RolloutWave.size)) == [(1, 1), (2, 4)]
    columns = (col(RolloutOutcome.number), col(RolloutOutcome.was), col(RolloutOutcome.state), col(RolloutOutcome.code))
    assert await hub.rows(RolloutOutcome, *columns) == [(number, "", "queued", "joined")]
    assert await hub.join() == 0
    assert (await hub.row()).prepared_through == 5


async def test_by_an_attribute(hub: Setup) -> None:
    await hub.running(query="attribute.site = north")
    number = await hub.device("A9", site="south")
    await hub.devices.set_attributes(OPERATOR, "A9", {"site": "north"})
    assert await hub.join() == 1
    assert await hub.newcomers() == [(5, number, 2, 1, "north", "queued")]


async def test_who_may_not_have_it_does_not_join(hub: Setup) -> None:
    await hub.running(query="")
    await hub.device("B1", hardware="esp32")
    await hub.device("B2", state="pending")
    await hub.device("B3")
    await hub.pinned("B3")
    for serial in ("B1", "B2", "B3", "A0"):
        await hub.happened(serial)
    assert await hub.join() == 0
    assert await hub.newcomers() == []


async def test_nobody_joins_a_rollout_that_does_not_say_so_or_whose_last_wave_is_closed(hub: Setup) -> None:
    await hub.running(join=False)
    await hub.device("A9", tags=["alpha"])
    await hub.happened("A9")
    assert await hub.join() == 0
    async with hub.database.unit_of_work() as uow:
        row = await uow.session.get(Rollout, 1)
        wave = await uow.session.get(RolloutWave, (1, 2))
        assert row is not None
        assert wave is not None
        row.spec = row.spec.replace('"join":false', '"join":true')
        wave.closed_at = START
        await uow.commit()
    assert await hub.join() == 0


async def test_kinds_that_nobody_knew_of_share_one_stratum(hub: Setup) -> None:
    await hub.running()
    for number, site in enumerate(("north", "west", "east")):
        await hub.device(f"B{number}", tags=["alpha"], site=site)
        await hub.happened(f"B{number}")
    assert await hub.join() == 3
    assert [(stratum, site) for _, _, _, stratum, site, _ in await hub.newcomers()] == [
        (1, "north"),
        (2, "west"),
        (2, "east"),
    ]
    assert await hub.rows(RolloutStratum, col(RolloutStratum.stratum), col(RolloutStratum.name)) == [
        (1, "rpi4 / site=north"),
        (2, "(others)"),
    ]


async def test_many_changes_are_looked_at_in_parts(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MAX_EVENTS", 2)
    await hub.running()
    for number in range(5):
        await hub.device(f"B{number}", tags=["alpha"])
        await hub.happened(f"B{number}")
    assert [await hub.join() for _ in range(4)] == [2, 2, 1, 0]
    assert [position for position, *_ in await hub.newcomers()] == [5, 6, 7, 8, 9]


async def test_what_happened_before_the_look_up_is_not_looked_at_again(hub: Setup) -> None:
    await hub.device("A9", tags=["alpha"])
    await hub.happened("A9")
    await hub.running()
    statements: list[str] = []
    engine = hub.database.writer.sync_engine
    event.listen(engine, "before_cursor_execute", lambda _1, _2, statement, *_: statements.append(statement))
    assert await hub.join() == 0
    assert not any("installed_component" in statement for statement in statements)


async def test_a_filter_that_is_gone_lets_nobody_join_and_stops_nothing(hub: Setup) -> None:
    async with hub.database.unit_of_work() as uow:
        saved = SavedFilter(name="ours", query="tag = alpha", author="olga", saved_at=START)
        uow.session.add(saved)
        await uow.commit()
    await hub.running(query="filter(ours)")
    async with hub.database.unit_of_work() as uow:
        await uow.session.delete(await uow.session.get_one(SavedFilter, "ours"))
        await uow.commit()
    await hub.device("A9", tags=["alpha"])
    await hub.happened("A9")
    assert await hub.join() == 0
    assert len(await hub.rows(RolloutDevice, col(RolloutDevice.number))) == 4

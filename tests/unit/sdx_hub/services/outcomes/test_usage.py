"""Use of devices: totals that only grow, and what of them a wave is watched by."""

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from firmware_schemas.device_api import ResultReport, UsageReport
from firmware_schemas.ids import DeviceId
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device, DeviceEvent
from sdx_hub.persistence.tables.rollouts import DeviceUsage, RolloutDevice, RolloutWave
from sdx_hub.services.devices.device_views import UsageView
from sdx_hub.services.devices.devices import DeviceService
from sdx_hub.services.devices.reports import ReportService
from sdx_hub.services.outcomes.from_reports import result
from sdx_hub.services.outcomes.usage import usage
from tests.unit.sdx_hub.services.conftest import VIEWER, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft
from tests.unit.sdx_hub.services.rollouts.members import Rollouts

NEW = "nav@2.0.0"


class Field(Rollouts):
    """Devices in the field that say how much they were used."""

    async def says(self, serial: str, flights: int, running_s: int) -> None:
        async with self.database.unit_of_work() as uow:
            device = await uow.session.get_one(Device, self.ids[serial])
            await usage(uow, device, UsageReport(flights, running_s), self.clock.now())
            await uow.commit()

    async def commit(self, rollout: int, serial: str) -> None:
        """It commits: its use until now is kept with it."""
        await self.become(rollout, serial, "committed")
        known = select(col(DeviceUsage.flights), col(DeviceUsage.running_s)).where(
            col(DeviceUsage.number) == self.numbers[serial]
        )
        rows = await self._rows(known)
        if rows:
            async with self.database.unit_of_work() as uow:
                await uow.session.execute(
                    update(RolloutDevice)
                    .where(col(RolloutDevice.rollout) == rollout, col(RolloutDevice.number) == self.numbers[serial])
                    .values(flights=rows[0][0], running_s=rows[0][1])
                )
                await uow.commit()

    async def wave(self, rollout: int) -> tuple[int, int]:
        rows = await self._rows(
            select(col(RolloutWave.flights), col(RolloutWave.running_s)).where(col(RolloutWave.rollout) == rollout)
        )
        return rows[0][0], rows[0][1]

    async def total(self, serial: str) -> tuple[int, int]:
        rows = await self._rows(
            select(col(DeviceUsage.flights), col(DeviceUsage.running_s)).where(
                col(DeviceUsage.number) == self.numbers[serial]
            )
        )
        return rows[0][0], rows[0][1]


@pytest.fixture
async def field(database: Database, clock: MovableClock) -> Field:
    field = Field(database, clock)
    await field.release("nav@1.0.0")
    await field.release(NEW)
    for serial in ("a", "b"):
        await field.device(serial, "nav@1.0.0")
    await field.rollout(1, NEW)
    for serial in ("a", "b"):
        await field.member(1, serial, "trial")
    return field


async def test_what_came_after_the_commit_counts_for_the_wave(field: Field) -> None:
    await field.says("a", 10, 5_000)
    await field.says("b", 100, 90_000)
    assert await field.wave(1) == (0, 0), "nobody has committed"
    await field.commit(1, "a")
    await field.commit(1, "b")
    await field.says("a", 12, 6_000)
    await field.says("b", 101, 90_500)
    await field.says("a", 13, 6_100)
    assert await field.wave(1) == (4, 1_600)
    assert await field.total("a") == (13, 6_100)


async def test_totals_only_grow(field: Field) -> None:
    await field.says("a", 10, 5_000)
    await field.commit(1, "a")
    await field.says("a", 2, 6_000)
    assert await field.total("a") == (10, 6_000)
    assert await field.wave(1) == (0, 1_000)
    await field.says("a", 11, 100)
    assert await field.total("a") == (11, 6_000)
    assert await field.wave(1) == (1, 1_000)


async def test_a_life_that_is_first_told_of_after_the_commit_is_no_soak(field: Field) -> None:
    await field.commit(1, "a")
    await field.says("a", 500, 900_000)
    assert await field.wave(1) == (0, 0)
    member = await field.row(1, "a")
    assert (member.flights, member.running_s) == (500, 900_000)
    await field.says("a", 501, 900_100)
    assert await field.wave(1) == (1, 100)


async def test_the_totals_that_come_with_the_success_are_those_of_the_commit(field: Field) -> None:
    """As the agent sends them: use, then the result, in one batch."""
    async with field.database.unit_of_work() as uow:
        device = await uow.session.get_one(Device, field.ids["a"])
        await usage(uow, device, UsageReport(10, 5_000), field.clock.now())
        success = ResultReport(f"{device.id}.{device.desired_version}", "success", {"nav": "2.0.0"})
        await result(uow, device, success, field.clock.now())
        await uow.commit()
    member = await field.row(1, "a")
    assert (member.state, member.flights, member.running_s) == ("committed", 10, 5_000)
    await field.says("a", 11, 5_200)
    assert await field.wave(1) == (1, 200)


async def test_what_was_used_between_the_last_word_and_the_commit_is_no_soak(field: Field) -> None:
    """The device speaks right before its success; the member's totals are from there, also where they are larger."""
    await field.says("a", 10, 5_000)
    async with field.database.unit_of_work() as uow:
        await uow.session.execute(
            update(RolloutDevice).where(col(RolloutDevice.number) == 1).values(flights=14, running_s=7_000)
        )
        await uow.commit()
    await field.become(1, "a", "committed")
    await field.says("a", 15, 7_500)
    assert await field.wave(1) == (1, 500)


@pytest.mark.parametrize("state", ["finished", "cancelled", "reverted"])
async def test_a_rollout_that_is_over_counts_no_more(field: Field, state: str) -> None:
    await field.says("a", 10, 5_000)
    await field.commit(1, "a")
    await field.set_state(1, state)
    await field.says("a", 12, 6_000)
    assert await field.wave(1) == (0, 0)


@pytest.mark.parametrize("state", ["paused", "halted"])
async def test_a_rollout_that_rests_counts_on(field: Field, state: str) -> None:
    await field.says("a", 10, 5_000)
    await field.commit(1, "a")
    await field.set_state(1, state)
    await field.says("a", 12, 6_000)
    assert await field.wave(1) == (2, 1_000)


@pytest.mark.parametrize(("release", "first"), [("cam@3.0.0", (1, 100)), ("nav@3.0.0", (0, 0))])
async def test_use_counts_for_every_release_that_is_used(field: Field, release: str, first: tuple[int, int]) -> None:
    """A device that has gone on to a newer release of the product no longer says anything of the old one."""
    await field.says("a", 10, 5_000)
    await field.commit(1, "a")
    await field.release(release)
    await field.rollout(2, release)
    await field.end_action("a", "success")
    await field.member(2, "a", "trial")
    await field.commit(2, "a")
    await field.says("a", 11, 5_100)
    assert (await field.wave(1), await field.wave(2)) == (first, (1, 100))


async def test_it_comes_as_a_signed_report_and_leaves_no_trace_in_the_timeline(field: Field) -> None:
    craft = Craft("c")
    async with field.database.unit_of_work() as uow:
        uow.session.add(
            Device(
                id=craft.id,
                number=77,
                serial="c",
                device_key=craft.device_key,
                hardware=craft.hardware,
                state="accepted",
                token_sha256=craft.token_sha256,
                change_seq=77,
                created_at=field.clock.now(),
            )
        )
        await uow.commit()
    field.numbers["c"] = 77
    service = ReportService(field.database, field.clock, field.fleet)
    devices = DeviceService(field.database, field.clock)
    assert (await devices.show(VIEWER, "c")).usage is None
    answer = await service.receive(DeviceId(craft.id), craft.batch(UsageReport(1, 60), UsageReport(2, 90)))
    assert [receipt.status for receipt in answer.receipts] == ["accepted", "accepted"]
    assert (await devices.show(VIEWER, "c")).usage == UsageView(2, 90, field.clock.now())
    assert not await field._rows(select(col(DeviceEvent.id)).where(col(DeviceEvent.device_id) == craft.id))

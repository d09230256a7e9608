"""Devices that report at the same time share transactions, and nothing else: no refusal, no error, no wait."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlmodel import col

from firmware_schemas.device_api import ProgressReport, ReportAnswer, ReportBatch, ReportBody, ResultReport, TokenReport
from firmware_schemas.ids import DeviceId
from sdx_hub.domain.errors import NotAllowed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import Device, DeviceEvent, DeviceReport
from sdx_hub.services.devices import report_effects
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.devices.reports import ReportService
from tests.unit.sdx_hub.services.conftest import START, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft


class Fleet:
    """Devices with an open action each, and a hub that takes their reports."""

    def __init__(self, database: Database, clock: MovableClock) -> None:
        self.database = database
        self.service = ReportService(database, clock, FleetState(database, clock, PollSettings()))
        self.crafts: list[Craft] = []
        self.commits = 0
        event.listen(database.writer.sync_engine, "commit", self._count)

    def _count(self, _: Any) -> None:
        self.commits += 1

    async def add(self, count: int) -> None:
        async with self.database.unit_of_work() as uow:
            for _ in range(count):
                craft = Craft(serial=f"S{len(self.crafts)}")
                self.crafts.append(craft)
                uow.session.add(
                    Device(
                        id=craft.id,
                        number=len(self.crafts),
                        serial=craft.serial,
                        device_key=craft.device_key,
                        hardware=craft.hardware,
                        state="accepted",
                        token_sha256=craft.token_sha256,
                        change_seq=len(self.crafts),
                        created_at=START,
                    )
                )
            await uow.session.flush()
            for craft in self.crafts:
                uow.session.add(
                    Action(
                        id=f"{craft.id}.1",
                        device_id=craft.id,
                        desired_version=1,
                        releases="{}",
                        state="open",
                        created_at=START,
                    )
                )
            await uow.commit()
        self.commits = 0

    async def send(self, craft: Craft, detail: str = "fine", service: ReportService | None = None) -> ReportAnswer:
        batch = craft.batch(ResultReport(f"{craft.id}.1", "success", {}, detail=detail))
        return await (service or self.service).receive(DeviceId(craft.id), batch)

    async def stored(self) -> set[str]:
        async with self.database.reading() as session:
            return set(await session.scalars(select(col(DeviceReport.device_id))))

    async def count(self, table: Any, *conditions: Any) -> int:
        async with self.database.reading() as session:
            return await session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0


@pytest.fixture
async def fleet(database: Database, clock: MovableClock) -> Fleet:
    return Fleet(database, clock)


@pytest.fixture
async def second(database_url: str, clock: MovableClock) -> AsyncIterator[ReportService]:
    """Another replica on the same database."""
    database = await Database.open(database_url, clock)
    yield ReportService(database, clock, FleetState(database, clock, PollSettings()))
    await database.close()


def statuses(answers: list[Any]) -> list[str]:
    return [receipt.status for answer in answers for receipt in answer.receipts]


async def test_many_devices_cost_few_transactions_and_each_acknowledged_report_is_there(fleet: Fleet) -> None:
    await fleet.add(150)
    answers = await asyncio.gather(*(fleet.send(craft) for craft in fleet.crafts))
    assert statuses(answers) == ["accepted"] * 150
    assert fleet.commits <= 3
    assert await fleet.stored() == {craft.id for craft in fleet.crafts}
    assert await fleet.count(Action, col(Action.state) == "success") == 150
    assert await fleet.count(AuditEntry) == 150


async def test_nobody_is_acknowledged_before_the_commit(fleet: Fleet) -> None:
    await fleet.add(5)
    async with fleet.database.unit_of_work():
        sending = [asyncio.create_task(fleet.send(craft)) for craft in fleet.crafts]
        done, _ = await asyncio.wait(sending, timeout=0.2)
        assert not done
        assert await fleet.stored() == set()
    assert statuses(await asyncio.gather(*sending)) == ["accepted"] * 5


async def test_a_refused_report_takes_nothing_of_the_others_with_it(fleet: Fleet) -> None:
    await fleet.add(4)
    poison, other = fleet.crafts[1], fleet.crafts[2]
    token = poison.batch(TokenReport(other.token_sha256))
    answers = await asyncio.gather(
        fleet.send(fleet.crafts[0]),
        fleet.service.receive(DeviceId(poison.id), token),
        fleet.send(other),
        fleet.send(fleet.crafts[3]),
    )
    assert statuses(answers) == ["accepted", "refused", "accepted", "accepted"]
    assert answers[1].receipts[0].code == "token_taken"
    assert await fleet.stored() == {craft.id for craft in fleet.crafts if craft is not poison}
    assert await fleet.count(AuditEntry) == 3
    assert await fleet.count(DeviceEvent, col(DeviceEvent.device_id) == poison.id) == 0
    assert statuses([await fleet.send(poison)]) == ["accepted"], "and the device goes on with the next one"


@pytest.mark.parametrize(
    ("poison", "code"),
    [
        (ResultReport("a.1", "success", {}, detail="a\0b"), "schema_error"),
        (ProgressReport("a.1", "\0"), "schema_error"),
        (TokenReport("b" * 64), "token_taken"),
    ],
)
async def test_after_a_refused_report_the_rest_of_a_batch_is_taken(fleet: Fleet, poison: ReportBody, code: str) -> None:
    """No database stores a NUL: it is refused for good, or the device would send it again for ever."""
    await fleet.add(2)
    craft = fleet.crafts[0]
    async with fleet.database.unit_of_work() as uow:
        (await uow.session.get_one(Device, fleet.crafts[1].id)).token_sha256 = "b" * 64
        await uow.commit()
    last = ResultReport(f"{craft.id}.1", "failed", {}, detail="a backslash: \\u0000")
    batch = craft.batch(ProgressReport(f"{craft.id}.1", "READY"), poison, last)
    answer = await fleet.service.receive(DeviceId(craft.id), batch)
    assert statuses([answer]) == ["accepted", "refused", "accepted"]
    assert answer.receipts[1].code == code
    assert await fleet.count(Action, col(Action.state) == "failed", col(Action.detail) == last.detail) == 1
    assert await fleet.count(DeviceReport) == 2


async def test_a_fault_fails_alone(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await fleet.add(4)
    faulty, real = fleet.crafts[2], report_effects.apply

    async def apply(uow: Any, device: Device, *rest: Any) -> bool:
        done = await real(uow, device, *rest)
        if device.id == faulty.id:
            raise ZeroDivisionError
        return done

    monkeypatch.setattr(report_effects, "apply", apply)
    answers = await asyncio.gather(*map(fleet.send, fleet.crafts), return_exceptions=True)
    assert isinstance(answers.pop(2), ZeroDivisionError)
    assert statuses(answers) == ["accepted"] * 3
    assert await fleet.stored() == {craft.id for craft in fleet.crafts if craft is not faulty}
    assert await fleet.count(Action, col(Action.state) == "open") == 1
    assert await fleet.count(AuditEntry) == 3, "what it noted is taken back as well"


async def test_a_device_that_may_not_report_fails_alone(fleet: Fleet) -> None:
    await fleet.add(3)
    async with fleet.database.unit_of_work() as uow:
        (await uow.session.get_one(Device, fleet.crafts[0].id)).state = "revoked"
        await uow.commit()
    answers = await asyncio.gather(*map(fleet.send, fleet.crafts), return_exceptions=True)
    assert isinstance(answers.pop(0), NotAllowed)
    assert statuses(answers) == ["accepted"] * 2


async def test_the_same_report_at_two_replicas_takes_effect_once(fleet: Fleet, second: ReportService) -> None:
    await fleet.add(20)
    batches = [craft.batch(ResultReport(f"{craft.id}.1", "success", {})) for craft in fleet.crafts]

    async def send(service: ReportService, craft: Craft, batch: ReportBatch) -> ReportAnswer:
        return await service.receive(DeviceId(craft.id), batch)

    answers = await asyncio.gather(
        *(
            send(service, craft, batch)
            for craft, batch in zip(fleet.crafts, batches, strict=True)
            for service in (fleet.service, second)
        )
    )
    both = [sorted(statuses([one, other])) for one, other in zip(answers[::2], answers[1::2], strict=True)]
    assert both == [["accepted", "duplicate"]] * 20
    assert await fleet.count(DeviceReport) == await fleet.count(AuditEntry) == await fleet.count(DeviceEvent) == 20

import base64
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, select
from sqlmodel import col

from firmware_schemas.device_api import (
    Envelope,
    InstalledComponent,
    InventoryReport,
    ProgressReport,
    ReportBatch,
    ReportReceipt,
    ResultReport,
    TokenReport,
    envelope,
)
from firmware_schemas.ids import DeviceId
from sdx_hub.domain.errors import NotAllowed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables import devices as tables
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import Device, DeviceEvent, DeviceInventory, DeviceReport
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.devices.reports import MAX_INSTALLED, ReportService
from tests.unit.sdx_hub.services.conftest import START, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft
from tests.unit.sdx_hub.services.devices.test_fleet_state import add

SHA256 = "ab" * 32
SERVER = InstalledComponent("server", "file", "steady", "1.0.0", 1_000_000, SHA256)


def inventory(*components: InstalledComponent, **changes: Any) -> InventoryReport:
    fields: dict[str, Any] = {"components": components, "floors": {}, "agent_version": "0.2.0", "boot_id": "b"}
    return InventoryReport(**{**fields, **changes})


class Setup:
    def __init__(self, database: Database, clock: MovableClock) -> None:
        self.database = database
        self.clock = clock
        self.fleet = FleetState(database, clock, PollSettings())
        self.service = ReportService(database, clock, self.fleet)
        self.craft = Craft()

    async def send(self, *sealed: Envelope, craft: Craft | None = None) -> Sequence[ReportReceipt]:
        device = DeviceId((craft or self.craft).id)
        return (await self.service.receive(device, ReportBatch(tuple(sealed)))).receipts

    async def count(self, table: Any) -> int:
        async with self.database.reading() as session:
            return await session.scalar(select(func.count()).select_from(table)) or 0

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        async with self.database.reading() as session:
            rows = await session.scalars(select(DeviceEvent).order_by(col(DeviceEvent.id)))
            return [(row.kind, json.loads(row.detail)) for row in rows]

    async def open_action(self, action: str) -> None:
        async with self.database.unit_of_work() as uow:
            uow.session.add(
                Action(
                    id=action,
                    device_id=self.craft.id,
                    desired_version=int(action.rpartition(".")[2]),
                    releases="{}",
                    state="open",
                    created_at=START,
                )
            )
            await uow.commit()

    async def action(self, action: str) -> Action:
        async with self.database.reading() as session:
            return (await session.scalars(select(Action).where(col(Action.id) == action))).one()


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Setup:
    setup = Setup(database, clock)
    await add(database, setup.craft)
    await setup.fleet.load()
    return setup


async def test_the_first_result_counts_and_later_ones_are_only_noted(hub: Setup) -> None:
    action = f"{hub.craft.id}.1"
    await hub.open_action(action)
    hub.clock.move(minutes=3)
    bad = hub.craft.report(ResultReport(action, "rolled_back", {"steady": "1.0.0"}, "health_failed", "no heartbeat"))
    good = hub.craft.report(ResultReport(action, "success", {"steady": "2.0.0"}))
    assert [receipt.status for receipt in await hub.send(bad, good)] == ["accepted", "accepted"]
    ended = await hub.action(action)
    assert (ended.state, ended.code, ended.detail) == ("rolled_back", "health_failed", "no heartbeat")
    assert ended.finished_at == hub.clock.now()
    assert [kind for kind, _ in await hub.events()] == ["result", "late_result"]
    async with hub.database.reading() as session:
        audited = (await session.scalars(select(AuditEntry))).all()
    assert [(entry.actor, entry.action) for entry in audited] == [(hub.craft.id, "action.finish")]


async def test_a_result_of_another_devices_action_changes_nothing(hub: Setup) -> None:
    action = f"{hub.craft.id}.1"
    await hub.open_action(action)
    other = Craft("S2")
    await add(hub.database, other)
    await hub.send(other.report(ResultReport(action, "failed", {})), craft=other)
    assert (await hub.action(action)).state == "open"
    assert [kind for kind, _ in await hub.events()] == ["late_result"]


async def test_the_same_report_again_is_a_duplicate_and_takes_effect_once(hub: Setup) -> None:
    sealed = hub.craft.report(ProgressReport("a.1", "DOWNLOADING"))
    assert (await hub.send(sealed))[0] == ReportReceipt(1, "accepted")
    assert (await hub.send(sealed))[0] == ReportReceipt(1, "duplicate")
    assert len(await hub.events()) == 1


async def test_the_same_report_twice_in_one_batch(hub: Setup) -> None:
    sealed = hub.craft.report(ProgressReport("a.1", "DOWNLOADING"))
    assert [receipt.status for receipt in await hub.send(sealed, sealed)] == ["accepted", "duplicate"]


async def test_an_old_counter_with_other_content_is_a_replay(hub: Setup) -> None:
    await hub.send(hub.craft.report(ProgressReport("a.1", "READY"), counter=10))
    for counter in (10, 9, 1):
        receipt = (await hub.send(hub.craft.report(ProgressReport("a.1", "TRIAL"), counter=counter)))[0]
        assert (receipt.status, receipt.code, receipt.counter) == ("refused", "report_replayed", counter)
    assert await hub.count(DeviceReport) == 1
    assert len(await hub.events()) == 1


async def test_a_refused_report_does_not_hold_up_the_others(hub: Setup) -> None:
    good = [hub.craft.report(ProgressReport("a.1", state)) for state in ("OFFERED", "READY")]
    forged = Craft().report(ProgressReport("a.1", "FORGED"), counter=2, device_id=hub.craft.id)
    receipts = await hub.send(good[0], forged, good[1])
    assert [(receipt.status, receipt.code) for receipt in receipts] == [
        ("accepted", ""),
        ("refused", "bad_signature"),
        ("accepted", ""),
    ]
    assert [detail["state"] for _, detail in await hub.events()] == ["OFFERED", "READY"]


async def test_a_report_for_another_device_is_refused(hub: Setup) -> None:
    receipt = (await hub.send(hub.craft.report(ProgressReport("a.1", "READY"), device_id="d-other")))[0]
    assert (receipt.status, receipt.code) == ("refused", "wrong_device")
    assert await hub.events() == []


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"[]", b'{"counter":-1}', b'{"counter":"\xff"}', b'{"counter":1e400}', b'{"x":' * 20_000],
    ids=["empty", "bytes", "list", "negative", "utf8", "infinite", "deep"],
)
async def test_signed_nonsense_gets_a_receipt(hub: Setup, payload: bytes) -> None:
    receipt = (await hub.send(envelope(payload, hub.craft.key.sign(payload))))[0]
    assert (receipt.status, receipt.counter) == ("refused", 0)


async def test_an_envelope_that_is_not_base64_gets_a_receipt(hub: Setup) -> None:
    assert (await hub.send(Envelope("?", "?")))[0].code == "schema_error"


async def test_an_inventory_replaces_the_last_one_and_is_kept_as_it_was_signed(hub: Setup) -> None:
    first = hub.craft.report(inventory(SERVER))
    second = hub.craft.report(inventory(msgspec.structs.replace(SERVER, version="2.0.0")))
    await hub.send(first)
    slot = 1
    assert not hub.fleet.memory.asks(slot), "the poll stops asking at once"
    await hub.send(second)
    async with hub.database.reading() as session:
        parts = (await session.scalars(select(tables.InstalledComponent))).all()
        held = (await session.scalars(select(DeviceInventory))).one()
        device = (await session.scalars(select(Device))).one()
    assert [(part.product, part.name, part.version) for part in parts] == [("steady", "server", "2.0.0")]
    assert (held.payload, held.signature) == (second.payload, second.signature)
    assert device.agent_version == "0.2.0"
    assert [detail["running"] for kind, detail in await hub.events() if kind == "inventory"] == [
        {"steady/server": "1.0.0"},
        {"steady/server": "2.0.0"},
    ]


async def test_an_inventory_that_says_the_same_adds_no_line(hub: Setup) -> None:
    await hub.send(hub.craft.report(inventory(SERVER)), hub.craft.report(inventory(SERVER)))
    assert len(await hub.events()) == 1


@pytest.mark.parametrize(
    "body",
    [
        inventory(SERVER, SERVER),
        inventory(*(msgspec.structs.replace(SERVER, name=f"c{number}") for number in range(MAX_INSTALLED + 1))),
        inventory(msgspec.structs.replace(SERVER, release_counter=-1)),
        inventory(msgspec.structs.replace(SERVER, release_counter=2**53)),
        inventory(floors={"steady": -1}),
        inventory(floors={f"p{number}": 1 for number in range(MAX_INSTALLED + 1)}),
        inventory(agent_version="v" * 65),
    ],
    ids=["twice", "many", "negative", "large", "floor", "floors", "version"],
)
async def test_an_inventory_out_of_bounds_is_refused_and_changes_nothing(hub: Setup, body: InventoryReport) -> None:
    await hub.send(hub.craft.report(inventory(SERVER)))
    receipt = (await hub.send(hub.craft.report(body)))[0]
    assert (receipt.status, receipt.code) == ("refused", "schema_error")
    assert await hub.count(tables.InstalledComponent) == 1
    assert await hub.count(DeviceReport) == 1


async def test_a_poll_token_of_another_device_cannot_be_announced(hub: Setup) -> None:
    other = Craft("S2")
    await add(hub.database, other)
    receipt = (await hub.send(hub.craft.report(TokenReport(other.token_sha256))))[0]
    assert (receipt.status, receipt.code) == ("refused", "token_taken")
    assert (await hub.send(hub.craft.report(TokenReport(hub.craft.token_sha256))))[0].status == "accepted"


async def test_a_revoked_device_reports_nothing(hub: Setup) -> None:
    revoked = Craft("S3")
    await add(hub.database, revoked, "revoked")
    with pytest.raises(NotAllowed) as refused:
        await hub.send(revoked.report(ProgressReport("a.1", "READY")), craft=revoked)
    assert refused.value.code == "device_revoked"
    assert await hub.count(DeviceReport) == 0


async def test_nothing_of_a_batch_is_there_when_its_commit_fails(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(self: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr("sdx_hub.persistence.unit_of_work.UnitOfWork.commit", fails)
    sealed = hub.craft.report(inventory(SERVER))
    with pytest.raises(ConnectionResetError):
        await hub.send(sealed)
    monkeypatch.undo()
    assert await hub.count(DeviceReport) == await hub.count(DeviceEvent) == await hub.count(DeviceInventory) == 0
    assert (await hub.send(sealed))[0].status == "accepted"
    assert base64.b64decode(sealed.payload)

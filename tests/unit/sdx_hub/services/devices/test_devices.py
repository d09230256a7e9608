import base64
from datetime import timedelta

import pytest
from sqlmodel import col

from firmware_schemas.device_api import InstalledComponent, InventoryReport, ResultReport
from firmware_schemas.errors import InvalidName
from firmware_schemas.ids import DeviceId
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound
from sdx_hub.domain.signed_claim import verify_claim
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.services.devices.devices import MAX_ATTRIBUTES, DeviceFilter, DeviceService
from sdx_hub.services.devices.reports import ReportService
from tests.unit.sdx_hub.services.conftest import OPERATOR, PUBLISHER, START, VIEWER
from tests.unit.sdx_hub.services.devices.test_assigning import Setup as Fleet
from tests.unit.sdx_hub.services.devices.test_assigning import hub as fleet

__all__ = ["fleet"]
EVERY = DeviceFilter()


class Setup:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.service = DeviceService(fleet.database, fleet.clock)
        self.reports = ReportService(fleet.database, fleet.clock, fleet.fleet)

    async def inventory(self, serial: str, product: str, version: str) -> None:
        part = InstalledComponent("server", "file", product, version, 1, "ab" * 32)
        craft = self.fleet.crafts[serial]
        batch = craft.batch(InventoryReport((part,), {}, "0.2.0", "b"))
        assert (await self.reports.receive(DeviceId(craft.id), batch)).receipts[0].status == "accepted"

    async def ids(self, wanted: DeviceFilter) -> list[str]:
        return [item.serial for item in (await self.service.list(VIEWER, wanted, cursor=None, limit=100)).items]


@pytest.fixture
def hub(fleet: Fleet) -> Setup:
    return Setup(fleet)


async def test_a_device_shows_what_it_is_should_be_and_was_last_seen_as(hub: Setup) -> None:
    fleet = hub.fleet
    device = await fleet.device("S1", accepted_at=START)
    release = await fleet.release("steady@1.0.0")
    await fleet.fleet.load()
    await fleet.assign(release, "S1")
    await hub.inventory("S1", "steady", "0.9.0")
    await hub.service.tag(OPERATOR, "S1", "spring")
    await hub.service.tag(OPERATOR, "S1", "alps")
    fleet.fleet.sightings.seen.add(1)
    fleet.clock.move(seconds=30)
    await fleet.fleet.flush()
    shown = await hub.service.show(VIEWER, device)
    assert shown == await hub.service.show(VIEWER, "S1")
    assert (shown.id, shown.serial, shown.hardware, shown.state) == (device, "S1", "rpi4", "accepted")
    assert shown.device_key == fleet.crafts["S1"].device_key
    assert shown.tags == ["alps", "spring"]
    assert [(part.product, part.version) for part in shown.components] == [("steady", "0.9.0")]
    assert shown.agent_version == "0.2.0"
    assert shown.assignments == {"steady": release}
    assert shown.action is not None
    assert (shown.action.id, shown.action.state, shown.action.releases) == (
        f"{device}.1",
        "open",
        {"steady": release},
    )
    assert (shown.desired_version, shown.last_seen_at) == (1, START + timedelta(seconds=30))
    assert (shown.created_at, shown.accepted_at, shown.revoked_at) == (START, START, None)


async def test_the_action_that_is_shown_is_the_newest(hub: Setup) -> None:
    fleet = hub.fleet
    device = await fleet.device("S1")
    for version in range(1, 12):
        await fleet.assign(await fleet.release(f"steady@1.0.{version}"), "S1")
    craft = fleet.crafts["S1"]
    result = ResultReport(f"{device}.11", "rolled_back", {}, "health_failed", "it shook")
    await hub.reports.receive(DeviceId(device), craft.batch(result))
    shown = await hub.service.show(VIEWER, device)
    assert shown.action is not None
    assert (shown.action.id, shown.action.state, shown.action.code) == (f"{device}.11", "rolled_back", "health_failed")


async def test_a_device_that_never_said_anything(hub: Setup) -> None:
    device = await hub.fleet.device("S1", "pending")
    shown = await hub.service.show(VIEWER, device)
    assert (shown.tags, shown.components, shown.assignments, shown.attributes) == ([], [], {}, {})
    assert (shown.action, shown.last_seen_at) == (None, None)
    with pytest.raises(NotFound) as refused:
        await hub.service.inventory(VIEWER, device)
    assert refused.value.code == "inventory_missing"


async def test_a_serial_means_the_device_that_is_not_revoked(hub: Setup) -> None:
    await hub.fleet.device("S1", "revoked")
    second = await hub.fleet.device("S1")
    assert (await hub.service.show(VIEWER, "S1")).id == second
    for name in ("S9", "", "d-nobody", "x" * 100_000):
        with pytest.raises(NotFound) as refused:
            await hub.service.show(VIEWER, name)
        assert refused.value.code == "device_unknown"
        assert len(str(refused.value)) < 300


async def test_lists_are_filtered(hub: Setup) -> None:
    for number, state in enumerate(("accepted", "pending", "revoked", "accepted"), 1):
        await hub.fleet.device(f"S{number}", state)
    await hub.inventory("S1", "steady", "1.0.0")
    await hub.inventory("S4", "steady", "2.0.0")
    await hub.service.tag(OPERATOR, "S4", "spring")
    await hub.service.tag(OPERATOR, "S2", "spring")
    assert await hub.ids(EVERY) == ["S1", "S2", "S3", "S4"]
    assert await hub.ids(DeviceFilter(state="accepted")) == ["S1", "S4"]
    assert await hub.ids(DeviceFilter(tag="spring")) == ["S2", "S4"]
    assert await hub.ids(DeviceFilter(tag="spring", state="pending")) == ["S2"]
    assert await hub.ids(DeviceFilter(product="steady")) == ["S1", "S4"]
    assert await hub.ids(DeviceFilter(product="steady", version="2.0.0")) == ["S4"]
    assert await hub.ids(DeviceFilter(version="1.0.0")) == ["S1"]
    assert await hub.ids(DeviceFilter(tag="nobody")) == []
    with pytest.raises(BadInput):
        await hub.ids(DeviceFilter(state="lost"))


async def test_pages_hold_every_device_once_while_others_enrol(hub: Setup) -> None:
    for number in range(5):
        await hub.fleet.device(f"S{number}")
    seen, cursor = [], None
    while True:
        page = await hub.service.list(VIEWER, EVERY, cursor=cursor, limit=2)
        seen += [item.serial for item in page.items]
        cursor = page.following
        if cursor is None:
            break
        if len(seen) == 2:
            await hub.fleet.device("S5")
    assert seen == [f"S{number}" for number in range(6)]
    for cursor in ("", "abc", "WzFd", "ImEi"):
        if cursor:
            with pytest.raises(BadInput) as refused:
                await hub.service.list(VIEWER, EVERY, cursor=cursor, limit=2)
            assert refused.value.code == "invalid_cursor"


async def test_the_timeline_is_newest_first_in_pages(hub: Setup) -> None:
    await hub.fleet.device("S1")
    await hub.fleet.device("S2")
    for tag in ("a", "b", "c"):
        await hub.service.tag(OPERATOR, "S1", tag)
    await hub.service.tag(OPERATOR, "S2", "other")
    await hub.service.untag(OPERATOR, "S1", "b")
    first = await hub.service.timeline(VIEWER, "S1", cursor=None, limit=2)
    assert [(event.kind, event.detail["tag"]) for event in first.items] == [("untagged", "b"), ("tagged", "c")]
    second = await hub.service.timeline(VIEWER, "S1", cursor=first.following, limit=2)
    assert [(event.kind, event.detail["tag"]) for event in second.items] == [("tagged", "b"), ("tagged", "a")]
    assert second.following is None


async def test_the_inventory_is_what_the_device_signed(hub: Setup) -> None:
    device = await hub.fleet.device("S1")
    await hub.inventory("S1", "steady", "1.0.0")
    held = await hub.service.inventory(VIEWER, "S1")
    assert (held.device_id, held.received_at) == (device, START)
    payload = base64.b64decode(held.payload)
    verify_claim(held.device_key, payload, base64.b64decode(held.signature))
    assert b'"steady"' in payload


async def test_tags_are_names_and_there_are_not_too_many(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    await hub.fleet.device("S1")
    for tag in ("", "A", "a b", "a" * 65, "../a", "a\n"):
        with pytest.raises(InvalidName):
            await hub.service.tag(OPERATOR, "S1", tag)
    monkeypatch.setattr("sdx_hub.services.devices.devices.MAX_TAGS", 2)
    for tag in ("a", "b", "a"):
        await hub.service.tag(OPERATOR, "S1", tag)
    with pytest.raises(ConflictError) as refused:
        await hub.service.tag(OPERATOR, "S1", "c")
    assert refused.value.code == "too_many_tags"
    assert (await hub.service.untag(OPERATOR, "S1", "never-there")).tags == ["a", "b"]
    assert [row[0] for row in await hub.fleet.rows(AuditEntry, col(AuditEntry.action))] == ["device.tag"] * 2


async def test_attributes_are_replaced_whole(hub: Setup) -> None:
    await hub.fleet.device("S1")
    await hub.service.set_attributes(OPERATOR, "S1", {"site": "alps", "rotor/kv": "900"})
    shown = await hub.service.set_attributes(OPERATOR, "S1", {"site": "Zürich"})
    assert shown.attributes == {"site": "Zürich"}
    assert (await hub.service.show(VIEWER, "S1")).attributes == {"site": "Zürich"}
    await hub.service.set_attributes(OPERATOR, "S1", {"site": "Zürich"})
    assert len(await hub.fleet.rows(AuditEntry, col(AuditEntry.seq))) == 2
    page = await hub.service.timeline(VIEWER, "S1", cursor=None, limit=10)
    assert [(event.kind, event.detail) for event in page.items] == [
        ("attributes", {"changed": ["rotor/kv", "site"], "by": "olga"}),
        ("attributes", {"changed": ["rotor/kv", "site"], "by": "olga"}),
    ]


async def test_attributes_that_somebody_else_changed_are_not_overwritten(hub: Setup) -> None:
    await hub.fleet.device("S1")
    await hub.service.set_attributes(OPERATOR, "S1", {"site": "alps"}, expected={})
    with pytest.raises(ConflictError) as refused:
        await hub.service.set_attributes(OPERATOR, "S1", {"site": "sea"}, expected={})
    assert refused.value.code == "attributes_changed"
    assert (await hub.service.show(VIEWER, "S1")).attributes == {"site": "alps"}


async def test_attributes_are_bounded(hub: Setup) -> None:
    await hub.fleet.device("S1")
    for attributes in (
        {"": "x"},
        {"a b": "x"},
        {"a" * 65: "x"},
        {"a\n": "x"},
        {"a": "x" * 513},
        {"a": "x\0"},
        {f"a{number}": "" for number in range(MAX_ATTRIBUTES + 1)},
    ):
        with pytest.raises(BadInput) as refused:
            await hub.service.set_attributes(OPERATOR, "S1", attributes)
        assert refused.value.code == "invalid_attributes"


async def test_who_may_do_what(hub: Setup) -> None:
    await hub.fleet.device("S1")
    for principal in (VIEWER, PUBLISHER):
        for call in (
            hub.service.tag(principal, "S1", "a"),
            hub.service.untag(principal, "S1", "a"),
            hub.service.set_attributes(principal, "S1", {}),
        ):
            with pytest.raises(NotAllowed):
                await call
    assert await hub.fleet.rows(AuditEntry, col(AuditEntry.seq)) == []

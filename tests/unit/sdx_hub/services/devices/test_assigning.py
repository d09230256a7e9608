import json
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col

from firmware_schemas.release import Component, ReleaseManifest, encode_manifest
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import Device, DeviceEvent, DeviceTag
from sdx_hub.services.devices import assigning
from sdx_hub.services.devices.assigning import Assigned, AssigningService, Counts
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from tests.unit.sdx_hub.services.conftest import ADMIN, OPERATOR, PUBLISHER, VIEWER, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft, add_release
from tests.unit.sdx_hub.services.devices.test_fleet_state import add


def manifest(product: str, version: str, hardware: tuple[str, ...]) -> bytes:
    parts = (Component("server", "file", "ab" * 32, 1),)
    return encode_manifest(ReleaseManifest(product, version, 1, parts, hardware))


def everything(assigned: list[str], unchanged: list[str]) -> Assigned:
    """An answer in which nothing was refused."""
    return Assigned(assigned, unchanged, [], Counts(len(assigned), len(unchanged)))


class Setup:
    def __init__(self, database: Database, clock: MovableClock) -> None:
        self.database = database
        self.clock = clock
        self.fleet = FleetState(database, clock, PollSettings())
        self.service = AssigningService(database, clock, self.fleet)
        self.crafts: dict[str, Craft] = {}

    async def release(self, name: str, state: str = "published", hardware: tuple[str, ...] = ("any",)) -> str:
        product, _, version = name.partition("@")
        return await add_release(self.database, product, version, manifest(product, version, hardware), state)

    async def device(self, serial: str, state: str = "accepted", **fields: Any) -> str:
        craft = self.crafts[serial] = Craft(serial)
        await add(self.database, craft, state, **fields)
        return craft.id

    async def assign(self, release: str, *names: str) -> Assigned:
        return await self.service.assign(OPERATOR, release, list(names), None)

    async def tag(self, serial: str, tag: str) -> None:
        async with self.database.unit_of_work() as uow:
            uow.session.add(DeviceTag(device_id=self.crafts[serial].id, tag=tag))
            await uow.commit()

    async def end(self, action: str, state: str) -> None:
        async with self.database.unit_of_work() as uow:
            await uow.session.execute(update(Action).where(col(Action.id) == action).values(state=state))
            await uow.commit()

    async def rows(self, table: Any, *columns: Any) -> list[tuple[Any, ...]]:
        async with self.database.reading() as session:
            return [tuple(row) for row in await session.execute(select(*columns).select_from(table).order_by(*columns))]

    async def actions(self) -> list[tuple[Any, ...]]:
        return await self.rows(Action, col(Action.id), col(Action.state), col(Action.releases))

    async def poll(self, serial: str) -> tuple[int, str]:
        """What the device is told: the desired version and the action."""
        slot = await self.fleet.find(self.crafts[serial].token.encode())
        assert slot is not None
        answer = json.loads(self.fleet.memory.answer(slot))
        return answer["desired_version"], answer.get("action", "")


@pytest.fixture
def hub(database: Database, clock: MovableClock) -> Setup:
    return Setup(database, clock)


async def test_an_assignment_is_a_new_desired_state_that_the_next_poll_tells(hub: Setup) -> None:
    release, device = await hub.release("steady@1.0.0"), await hub.device("S1")
    await hub.fleet.load()
    assert await hub.assign(release, "S1") == everything([device], [])
    assert await hub.poll("S1") == (1, f"{device}.1")
    assert await hub.actions() == [(f"{device}.1", "open", '{"steady": "steady@1.0.0"}')]
    columns = (col(Assignment.device_id), col(Assignment.product), col(Assignment.release_id))
    assert await hub.rows(Assignment, *columns) == [(device, "steady", release)]
    assert await hub.rows(DeviceEvent, col(DeviceEvent.kind)) == [("desired",)]
    assert await hub.rows(AuditEntry, col(AuditEntry.actor), col(AuditEntry.action), col(AuditEntry.subject)) == [
        ("olga", "release.assign", release)
    ]


async def test_the_next_release_supersedes_the_open_action(hub: Setup) -> None:
    first, second = await hub.release("steady@1.0.0"), await hub.release("steady@2.0.0")
    device = await hub.device("S1")
    await hub.assign(first, "S1")
    await hub.assign(second, "S1")
    assert [(action, state) for action, state, _ in await hub.actions()] == [
        (f"{device}.1", "superseded"),
        (f"{device}.2", "open"),
    ]
    assert await hub.rows(Assignment, col(Assignment.release_id)) == [(second,)]


async def test_two_products_are_one_desired_state(hub: Setup) -> None:
    device = await hub.device("S1")
    await hub.assign(await hub.release("steady@1.0.0"), "S1")
    await hub.assign(await hub.release("camera@3.0.0"), "S1")
    assert (await hub.actions())[-1] == (
        f"{device}.2",
        "open",
        '{"camera": "camera@3.0.0", "steady": "steady@1.0.0"}',
    )


async def test_what_a_device_has_already_is_left_alone_unless_its_last_try_failed(hub: Setup) -> None:
    release, device = await hub.release("steady@1.0.0"), await hub.device("S1")
    await hub.assign(release, "S1")
    for state in ("open", "success"):
        await hub.end(f"{device}.1", state)
        assert await hub.assign(release, device) == everything([], [device])
    version = 1
    for state in ("failed", "rolled_back", "refused", "cancelled"):
        await hub.end(f"{device}.{version}", state)
        assert await hub.assign(release, device) == everything([device], []), state
        version += 1
    assert await hub.poll("S1") == (5, f"{device}.5")


async def test_devices_that_cannot_have_it_are_named_and_the_others_get_it(hub: Setup) -> None:
    release = await hub.release("steady@1.0.0", hardware=("rpi4",))
    good = await hub.device("S1")
    waits, gone = await hub.device("S2", "pending"), await hub.device("S3", "revoked")
    other = await hub.device("S4", hardware="esp32")
    done = await hub.assign(release, "S1", "S2", gone, "S4", "S5", good)
    assert done.assigned == [good]
    assert {(refused.device, refused.code) for refused in done.refused} == {
        (waits, "device_pending"),
        (gone, "device_revoked"),
        (other, "wrong_hardware"),
        ("S5", "device_unknown"),
    }
    assert len(await hub.actions()) == 1


async def test_a_tag_means_every_device_that_has_it_except_revoked_ones(hub: Setup) -> None:
    release = await hub.release("steady@1.0.0")
    ids = [await hub.device(f"S{number}", "revoked" if number == 3 else "accepted") for number in range(1, 5)]
    for serial in ("S1", "S3", "S4"):
        await hub.tag(serial, "spring")
    done = await hub.service.assign(OPERATOR, release, None, "spring")
    assert done == everything([ids[0], ids[3]], [])
    assert await hub.service.assign(OPERATOR, release, None, "nobody") == everything([], [])


async def test_many_devices_in_chunks_by_id_and_by_serial(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assigning, "_NAMES", 3)
    monkeypatch.setattr(assigning, "CHUNK", 3)
    release = await hub.release("steady@1.0.0")
    ids = [await hub.device(f"S{number}") for number in range(8)]
    done = await hub.assign(release, *ids[:4], *(f"S{number}" for number in range(3, 8)))
    assert sorted(done.assigned) == sorted(ids)
    assert {state for _, state, _ in await hub.actions()} == {"open"}
    assert [await hub.poll(f"S{number}") for number in range(8)] == [(1, f"{identity}.1") for identity in ids]


@pytest.mark.parametrize("state", ["waiting", "outdated", "yanked"])
async def test_only_published_releases_are_assigned(hub: Setup, state: str) -> None:
    release = await hub.release("steady@1.0.0", state)
    await hub.device("S1")
    with pytest.raises(ConflictError) as refused:
        await hub.assign(release, "S1")
    assert refused.value.code == "release_not_published"
    assert await hub.actions() == []


async def test_bad_orders(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    release = await hub.release("steady@1.0.0")
    with pytest.raises(NotFound):
        await hub.assign("steady@9.9.9", "S1")
    for devices, tag in ((None, None), (["S1"], "spring")):
        with pytest.raises(BadInput):
            await hub.service.assign(OPERATOR, release, devices, tag)
    monkeypatch.setattr(assigning, "MAX_DEVICES_PER_REQUEST", 1)
    with pytest.raises(BadInput):
        await hub.assign(release, "S1", "S2")
    for principal in (VIEWER, PUBLISHER):
        with pytest.raises(NotAllowed):
            await hub.service.assign(principal, release, ["S1"], None)


async def test_a_yank_takes_the_release_away_and_leaves_the_other_products(hub: Setup) -> None:
    bad, good = await hub.release("steady@1.0.0"), await hub.release("camera@1.0.0")
    both, only, none = [await hub.device(f"S{number}") for number in range(1, 4)]
    await hub.assign(bad, "S1", "S2")
    await hub.assign(good, "S1", "S3")
    async with hub.database.unit_of_work() as uow:
        await hub.service.unassign(uow, bad, ADMIN.name)
        await uow.commit()
    states = {action: (state, releases) for action, state, releases in await hub.actions()}
    assert states[f"{both}.2"][0] == states[f"{only}.1"][0] == "cancelled"
    assert states[f"{both}.3"] == ("open", '{"camera": "camera@1.0.0"}')
    assert f"{only}.2" not in states
    assert states[f"{none}.1"][0] == "open"
    assert await hub.poll("S1") == (3, f"{both}.3")
    assert await hub.poll("S2") == (2, ""), "nothing is assigned, and the device hears of it"
    assert await hub.poll("S3") == (1, f"{none}.1")
    async with hub.database.reading() as session:
        codes = set(await session.scalars(select(col(Action.code)).where(col(Action.state) == "cancelled")))
    assert codes == {"release_yanked"}


async def test_a_yank_of_what_nobody_has_changes_nothing(hub: Setup) -> None:
    release = await hub.release("steady@1.0.0")
    async with hub.database.unit_of_work() as uow:
        await hub.service.unassign(uow, release, ADMIN.name)
        await uow.commit()
    assert await hub.rows(AuditEntry, col(AuditEntry.seq)) == []


async def test_at_most_one_action_of_a_device_is_open(hub: Setup) -> None:
    """The database itself backs this, whatever a service does."""
    device = await hub.device("S1")
    await hub.assign(await hub.release("steady@1.0.0"), "S1")
    with pytest.raises(IntegrityError):
        async with hub.database.unit_of_work() as uow:
            uow.session.add(
                Action(
                    id="x.9",
                    device_id=device,
                    desired_version=9,
                    releases="{}",
                    state="open",
                    created_at=hub.clock.now(),
                )
            )
            await uow.commit()
    assert await hub.rows(Device, col(Device.desired_version)) == [(1,)]

"""Pinned devices stay on what they run."""

import json
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import BadInput, NotAllowed, NotFound
from sdx_hub.domain.rollout.states import MEMBER_STATES, ROLLOUT_STATES
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import DeviceEvent
from sdx_hub.services.devices.devices import DeviceService
from tests.unit.sdx_hub.services.conftest import APPROVER, OPERATOR, PUBLISHER, VIEWER, MovableClock
from tests.unit.sdx_hub.services.rollouts.commands import TWO, Commands

OLD, NEW = "nav@1.0.0", "nav@2.0.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Commands:
    hub = Commands(database, clock)
    await hub.signed(OLD, *TWO)
    await hub.signed(NEW, *TWO, back_to=100)
    await hub.craft("S1", "S2", assigned=OLD)
    return hub


async def shown(hub: Commands, serial: str = "S1") -> str:
    return (await DeviceService(hub.database, hub.clock).show(VIEWER, serial)).pinned


async def lines(hub: Commands, table: Any, *columns: Any) -> list[tuple[Any, ...]]:
    """The newest ones first."""
    async with hub.database.reading() as session:
        rows = await session.execute(select(*columns).select_from(table).order_by(columns[0].desc()))
        return [tuple(row)[1:] for row in rows]


async def test_a_pin_says_who_and_why(hub: Commands) -> None:
    await hub.pins.pin(OPERATOR, "S1", " on loan to the fire brigade ")
    assert await shown(hub) == "on loan to the fire brigade"
    assert await shown(hub, "S2") == ""
    told = (await lines(hub, DeviceEvent, col(DeviceEvent.id), col(DeviceEvent.kind), col(DeviceEvent.detail)))[0]
    assert (told[0], json.loads(told[1])) == ("pinned", {"by": "olga", "reason": "on loan to the fire brigade"})
    kept = (await lines(hub, AuditEntry, col(AuditEntry.seq), col(AuditEntry.action), col(AuditEntry.subject)))[0]
    assert kept == ("device.pin", hub.ids["S1"])
    await hub.pins.unpin(OPERATOR, "S1")
    assert await shown(hub) == ""
    told = (await lines(hub, DeviceEvent, col(DeviceEvent.id), col(DeviceEvent.kind)))[0]
    assert told == ("unpinned",)


async def test_a_pin_that_comes_again_is_there_already(hub: Commands) -> None:
    await hub.pins.pin(OPERATOR, "S1", "on loan")
    before = await lines(hub, AuditEntry, col(AuditEntry.seq), col(AuditEntry.hash))
    await hub.pins.pin(OPERATOR, "S1", "on loan")
    await hub.pins.unpin(OPERATOR, "S2")
    assert await lines(hub, AuditEntry, col(AuditEntry.seq), col(AuditEntry.hash)) == before
    await hub.pins.pin(OPERATOR, "S1", "broken arm")
    assert await shown(hub) == "broken arm"


@pytest.mark.parametrize("principal", [VIEWER, PUBLISHER, APPROVER], ids=lambda each: each.role)
async def test_a_pin_needs_its_permission(hub: Commands, principal: Principal) -> None:
    with pytest.raises(NotAllowed):
        await hub.pins.pin(principal, "S1", "x")
    assert await shown(hub) == ""
    await hub.pins.pin(OPERATOR, "S1", "x")
    with pytest.raises(NotAllowed):
        await hub.pins.unpin(principal, "S1")
    assert await shown(hub) == "x"


async def test_a_pin_of_nothing_or_without_a_reason(hub: Commands) -> None:
    for reason in ("", "  ", "x" * 2_001):
        with pytest.raises(BadInput) as refused:
            await hub.pins.pin(OPERATOR, "S1", reason)
        assert refused.value.code == "invalid_reason"
    for call in (hub.pins.pin(OPERATOR, "S9", "x"), hub.pins.unpin(OPERATOR, "S9")):
        with pytest.raises(NotFound) as unknown:
            await call
        assert unknown.value.code == "device_unknown"
    assert await shown(hub) == ""


async def test_nobody_assigns_anything_to_a_pinned_device(hub: Commands) -> None:
    await hub.pins.pin(OPERATOR, "S1", "on loan")
    done = await hub.assigning.assign(OPERATOR, NEW, ["S1", "S2"])
    assert done.assigned == [hub.ids["S2"]]
    (refused,) = done.refused
    assert (refused.device, refused.code) == (hub.ids["S1"], "device_pinned")
    assert "sdx device unpin" in refused.detail
    assert await hub.assigned("S1") == {"nav": OLD}
    # What it has already is no change.
    assert (await hub.assigning.assign(OPERATOR, OLD, ["S1"])).unchanged == [hub.ids["S1"]]
    await hub.pins.unpin(OPERATOR, "S1")
    assert (await hub.assigning.assign(OPERATOR, NEW, ["S1"])).assigned == [hub.ids["S1"]]


@pytest.mark.parametrize("state", MEMBER_STATES)
async def test_a_pin_leaves_out_a_member_that_waits_and_nobody_else(hub: Commands, state: str) -> None:
    await hub.rollout(1, NEW)
    for serial in ("S1", "S2"):
        await hub.member(1, serial, state)
    await hub.pins.pin(OPERATOR, "S1", "on loan")
    assert (await hub.members(1))["S1"] == (("pinned", "pinned") if state == "queued" else (state, ""))
    await hub.pins.unpin(OPERATOR, "S1")
    assert (await hub.states(1))["S1"] == ("queued" if state == "pinned" else state)
    assert (await hub.members(1))["S2"] == (state, "")
    await hub.check(1)


@pytest.mark.parametrize("state", ROLLOUT_STATES)
async def test_a_pin_concerns_rollouts_that_go_on(hub: Commands, state: str) -> None:
    await hub.rollout(1, NEW, state)
    await hub.member(1, "S1")
    await hub.pins.pin(OPERATOR, "S1", "on loan")
    goes_on = state in {"running", "paused", "halted"}
    assert await hub.states(1) == {"S1": "pinned" if goes_on else "queued"}


async def test_a_pinned_device_is_passed_over_and_has_its_turn_afterwards(hub: Commands) -> None:
    await hub.start(NEW, waves=("100%",), soak=None)
    await hub.pins.pin(OPERATOR, "S1", "on loan")  # While the list is written.
    await hub.tick(3)
    assert await hub.counts(1) in ({"offered": 1}, {"offered": 1, "pinned": 1})
    assert (await hub.states(1))["S2"] == "offered"
    assert await hub.assigned("S1") == {"nav": OLD}


async def test_a_device_that_is_unpinned_is_offered_it_next(hub: Commands) -> None:
    await hub.start(NEW, waves=("100%",))
    await hub.tick()
    await hub.set_state(1, "paused")
    await hub.pins.pin(OPERATOR, "S1", "on loan")
    await hub.set_state(1, "running")
    await hub.tick(2)
    assert await hub.states(1) == {"S1": "pinned", "S2": "offered"}
    await hub.pins.unpin(OPERATOR, "S1")
    await hub.tick()
    assert await hub.states(1) == {"S1": "offered", "S2": "offered"}
    await hub.check(1)

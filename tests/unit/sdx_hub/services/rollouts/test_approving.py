"""Two people: who signed, who ordered, who approves, and of what."""

import json

import msgspec
import pytest

from sdx_hub.domain.access import Principal, Role
from sdx_hub.domain.errors import ConflictError, NotAllowed
from sdx_hub.domain.rollout.policy import Approval
from sdx_hub.persistence.database import Database
from tests.unit.sdx_hub.services.conftest import ADMIN, APPROVER, OPERATOR, PUBLISHER, MovableClock
from tests.unit.sdx_hub.services.rollouts.commands import TWO, Commands

ALONE, TOGETHER = "nav@1.0.0", "nav@2.0.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Commands:
    hub = Commands(database, clock)
    await hub.signed(ALONE, "paul")
    await hub.signed(TOGETHER, *TWO)
    return hub


async def approval(hub: Commands, rollout: int = 1) -> Approval:
    return msgspec.json.decode((await hub.rollout_row(rollout)).signatures, type=Approval)


@pytest.mark.parametrize("owners", [(), ("paul",), ("paul", "paul")])
async def test_what_one_person_signed_waits_for_another_one(hub: Commands, owners: tuple[str, ...]) -> None:
    release = await hub.signed("nav@3.0.0", *owners)
    assert (await hub.start(release)).state == "approval"
    assert (await approval(hub)).kind == "second_person"
    await hub.tick(3)
    assert await hub.state(1) == "approval"


async def test_who_asks_for_a_second_person_waits_for_one(hub: Commands) -> None:
    assert (await hub.start(TOGETHER)).state == "preparing"
    assert (await hub.start(TOGETHER, query="tag=a", second_person=True)).state == "approval"
    assert (await approval(hub, 2)).signed_by == TWO


async def test_who_approves_is_not_who_ordered(hub: Commands) -> None:
    await hub.start(ALONE, ADMIN)
    before = await hub.kept(1)
    with pytest.raises(NotAllowed) as refused:
        await hub.give("approve", 1, ADMIN)
    assert refused.value.code == "same_person"
    # Nor with another role under the same name.
    with pytest.raises(NotAllowed):
        await hub.give("approve", 1, Principal(ADMIN.name, Role.APPROVER))
    assert await hub.kept(1) == before


async def test_somebody_else_approves_and_it_begins(hub: Commands) -> None:
    await hub.craft("S1")
    await hub.start(ALONE, OPERATOR, waves=("100%",))
    assert (await hub.give("approve", 1, APPROVER, reason="read the diff")).state == "preparing"
    row = await hub.rollout_row(1)
    assert (row.approved_by, row.reason) == ("anna", "anna approved it: read the diff.")
    held = await approval(hub)
    assert (held.kind, held.approved_by, held.signed_by) == ("second_person", "anna", ("paul",))
    assert await hub.events(1) == ["rollout.created", "rollout.approved"]
    await hub.tick(2)
    assert await hub.states(1) == {"S1": "offered"}


async def test_an_approval_is_given_once(hub: Commands) -> None:
    await hub.start(ALONE)
    await hub.give("approve", 1, APPROVER)
    before = await hub.kept(1)
    assert (await hub.give("approve", 1, APPROVER)).state == "preparing"
    assert await hub.kept(1) == before
    with pytest.raises(ConflictError) as refused:
        await hub.give("approve", 1, Principal("berta", Role.APPROVER))
    assert refused.value.code == "rollout_state"
    assert await hub.kept(1) == before


@pytest.mark.parametrize("changed", ["manifest", "signed_by", "yanked"])
async def test_an_approval_is_void_after_the_release_changed(hub: Commands, changed: str) -> None:
    await hub.start(ALONE)
    other = {
        "manifest": {"manifest": (await hub.manifest(ALONE)) + b" "},
        "signed_by": {"signed_by": json.dumps(["mallory"])},
        "yanked": {"state": "yanked"},
    }[changed]
    await hub.change_release(ALONE, **other)
    before = await hub.kept(1)
    with pytest.raises(ConflictError) as refused:
        await hub.give("approve", 1, APPROVER)
    assert refused.value.code == ("release_not_published" if changed == "yanked" else "approval_void")
    assert await hub.kept(1) == before


@pytest.mark.parametrize("state", ["paused", "halted"])
async def test_nothing_is_resumed_after_the_release_changed(hub: Commands, state: str) -> None:
    await hub.start(TOGETHER)
    await hub.set_state(1, state)
    await hub.change_release(TOGETHER, manifest=(await hub.manifest(TOGETHER)) + b" ")
    with pytest.raises(ConflictError) as refused:
        await hub.give("resume", 1, ADMIN)
    assert refused.value.code == "approval_void"
    await hub.change_release(TOGETHER, state="yanked")
    with pytest.raises(ConflictError) as yanked:
        await hub.give("resume", 1, ADMIN)
    assert yanked.value.code == "release_not_published"
    assert await hub.state(1) == state


async def test_a_halted_rollout_is_resumed_by_who_may_approve(hub: Commands) -> None:
    await hub.start(TOGETHER, ADMIN)
    for refused in (OPERATOR, PUBLISHER):
        await hub.set_state(1, "halted")
        with pytest.raises(NotAllowed):
            await hub.give("resume", 1, refused)
        assert await hub.state(1) == "halted"
    # Two people signed it: then who ordered it may.
    await hub.give("resume", 1, ADMIN)
    assert await hub.state(1) == "running"


async def test_a_halted_rollout_of_what_one_person_signed_is_not_resumed_by_who_ordered_it(hub: Commands) -> None:
    await hub.start(ALONE, ADMIN)
    await hub.set_state(1, "halted")
    with pytest.raises(NotAllowed) as refused:
        await hub.give("resume", 1, ADMIN)
    assert refused.value.code == "same_person"
    assert await hub.state(1) == "halted"
    await hub.give("resume", 1, APPROVER)
    assert await hub.state(1) == "running"


async def test_a_paused_rollout_is_resumed_by_who_operates_devices(hub: Commands) -> None:
    await hub.start(ALONE, OPERATOR)
    await hub.set_state(1, "paused")
    with pytest.raises(NotAllowed):
        await hub.give("resume", 1, APPROVER)
    await hub.give("resume", 1, OPERATOR)
    assert await hub.state(1) == "running"

"""Single members: tried again, left out."""

import json
from typing import Any

import msgspec
import pytest

from sdx_hub.domain.errors import ConflictError, NotFound
from sdx_hub.domain.rollout.facts import Accepted
from sdx_hub.domain.rollout.policy import Gate
from sdx_hub.domain.rollout.states import BAD, IN_FLIGHT, MEMBER_STATES
from sdx_hub.persistence.database import Database
from tests.support.statements import recorded
from tests.unit.sdx_hub.services.conftest import ADMIN, OPERATOR, MovableClock
from tests.unit.sdx_hub.services.rollouts.commands import TWO, Commands

OLD, NEW = "nav@1.0.0", "nav@2.0.0"
AGAIN = {*BAD, "superseded", "withdrawn", "skipped"}


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Commands:
    hub = Commands(database, clock)
    await hub.signed(OLD, *TWO)
    await hub.signed(NEW, *TWO, back_to=100)
    await hub.craft("S1", "S2", "S3", assigned=OLD)
    return hub


@pytest.mark.parametrize("state", MEMBER_STATES)
async def test_who_can_be_tried_again(hub: Commands, state: str) -> None:
    await hub.rollout(1, NEW, "paused")
    for serial in ("S1", "S2"):
        await hub.member(1, serial, state)
    before = await hub.kept(1)
    if state in AGAIN:
        assert (await hub.give("retry", 1, OPERATOR, devices=["S1"])).devices == 1
        assert await hub.members(1) == {"S1": ("queued", "retried"), "S2": (state, "")}
        (kept,) = await hub.decisions(1)
        assert (kept.actor, kept.rule, kept.sentence) == ("olga", "retry", "olga offers it again to 1 device.")
        await hub.tick()
        await hub.check(1)
    elif state in {"queued", *IN_FLIGHT}:  # It comes again: it is done already.
        assert (await hub.give("retry", 1, OPERATOR, devices=["S1"])).devices == 0
        assert await hub.kept(1) == before
    else:
        with pytest.raises(ConflictError) as refused:
            await hub.give("retry", 1, OPERATOR, devices=["S1"])
        assert refused.value.code == "member_state"
        assert f"S1 ({state})" in str(refused.value)
        assert await hub.kept(1) == before


async def test_all_that_failed_are_tried_again_by_one_command(hub: Commands) -> None:
    await hub.rollout(1, NEW, "halted")
    states = dict(zip([f"T{number:02}" for number in range(len(MEMBER_STATES))], MEMBER_STATES, strict=True))
    for serial, state in states.items():
        await hub.device(serial, OLD)
        await hub.member(1, serial, state)
    assert (await hub.give("retry", 1)).devices == len(BAD)
    assert await hub.states(1) == {serial: "queued" if state in BAD else state for serial, state in states.items()}
    before = await hub.kept(1)
    assert (await hub.give("retry", 1)).devices == 0
    assert await hub.kept(1) == before


@pytest.mark.parametrize("state", MEMBER_STATES)
async def test_who_can_be_left_out(hub: Commands, state: str) -> None:
    await hub.rollout(1, NEW, "paused")
    for serial in ("S1", "S2"):
        await hub.member(1, serial, state)
    before, assigned = await hub.kept(1), await hub.assigned("S1")
    if state in {"queued", *IN_FLIGHT, "off_duty"}:
        assert (await hub.give("skip", 1, OPERATOR, devices=["S1"], reason="in the workshop")).devices == 1
        assert await hub.members(1) == {"S1": ("skipped", "by_person"), "S2": (state, "")}
        # An open offer is taken back, and nobody else's.
        assert await hub.assigned("S1") == {"nav": OLD}
        assert await hub.assigned("S2") == assigned
        member = await hub.row(1, "S1")
        offered = state != "queued"
        assert await hub.action("S1") == ((3, "open") if offered else (1, "success"))
        assert (member.offer_version, member.back_version) == ((2, 3) if offered else (None, None))
        assert (await hub.decisions(1))[-1].sentence == "olga left out 1 device: in the workshop."
        await hub.tick()
        await hub.check(1)
    elif state == "skipped":
        assert (await hub.give("skip", 1, OPERATOR, devices=["S1"])).devices == 0
        assert await hub.kept(1) == before
    else:
        with pytest.raises(ConflictError) as refused:
            await hub.give("skip", 1, OPERATOR, devices=["S1"])
        assert refused.value.code == "member_state"
        assert await hub.kept(1) == before
        assert await hub.assigned("S1") == assigned


async def test_who_was_assigned_something_else_is_left_out_and_keeps_that(hub: Commands) -> None:
    other = await hub.signed("nav@3.0.0", *TWO)
    await hub.rollout(1, NEW, "paused")
    await hub.member(1, "S1", "off_duty")
    await hub.assigning.assign(OPERATOR, other, ["S1"])
    await hub.become(1, "S1", "off_duty")
    await hub.give("skip", 1, devices=["S1"])
    assert await hub.states(1) == {"S1": "skipped"}
    assert await hub.assigned("S1") == {"nav": other}
    assert (await hub.action("S1"))[0] == 3


async def polled(hub: Commands, serial: str) -> int:
    """The desired version that the device's next poll is told."""
    slot = await hub.fleet.find(hub.crafts[serial].token.encode())
    assert slot is not None
    return int(json.loads(hub.fleet.memory.answer(slot))["desired_version"])


async def test_the_next_poll_tells_of_what_a_command_took_back(hub: Commands) -> None:
    await hub.rollout(1, NEW, "paused")
    await hub.member(1, "S1", "offered")
    await hub.fleet.load()
    assert await polled(hub, "S1") == 2
    await hub.give("skip", 1, devices=["S1"])
    assert await polled(hub, "S1") == 3


@pytest.mark.parametrize("command", ["retry", "skip"])
async def test_one_name_that_is_wrong_changes_nothing(hub: Commands, command: str) -> None:
    await hub.rollout(1, NEW, "paused")
    await hub.member(1, "S1", "failed" if command == "retry" else "offered")
    await hub.member(1, "S2", "committed")
    before = await hub.kept(1)
    for names, code in (
        (["S1", "S9"], "device_unknown"),
        (["S1", "S3"], "not_a_member"),
        (["S1", "S2"], "member_state"),
    ):
        with pytest.raises((ConflictError, NotFound)) as refused:
            await hub.give(command, 1, devices=names)
        assert refused.value.code == code
        assert await hub.kept(1) == before


async def test_ids_and_serials_name_the_same_device(hub: Commands) -> None:
    await hub.rollout(1, NEW, "paused")
    for serial in ("S1", "S2"):
        await hub.member(1, serial, "failed")
    names = ["S1", hub.ids["S1"], hub.ids["S2"], "S1"]
    assert (await hub.give("retry", 1, devices=names)).devices == 2


async def test_many_devices_take_as_many_statements_as_few(hub: Commands) -> None:
    await hub.rollout(1, NEW, "paused")
    serials = [f"T{number:02}" for number in range(30)]
    for serial in serials:
        await hub.device(serial, OLD)
        await hub.member(1, serial, "offered")
    counts = []
    ids = [hub.ids[serial] for serial in serials]
    for names in (ids[:2], ids[2:]):
        with recorded(hub.database) as statements:
            await hub.give("skip", 1, devices=names)
        counts.append(len(statements))
    assert counts[0] == counts[1]
    assert await hub.counts(1) == {"skipped": 30}


async def test_a_member_that_fails_again_after_it_was_accepted_counts_again(hub: Commands) -> None:
    """Else two devices could fail for ever, in a rollout that once was resumed."""
    gate = Gate(pause_at=4, halt_at=1e6)
    await hub.start(NEW, waves=("100%",), stratify=(), gate=gate)
    await hub.tick(3)
    for serial in ("S1", "S2"):
        await hub.ends(serial, "failed")
    await hub.tick()
    assert await hub.state(1) == "paused"
    await hub.give("resume", 1, ADMIN)
    assert await accepted(hub) == {1: 2}
    await hub.tick()
    assert await hub.state(1) == "running"
    await hub.give("retry", 1)
    await hub.tick()
    assert await accepted(hub) == {}
    assert await hub.states(1) == {"S1": "offered", "S2": "offered", "S3": "offered"}
    for serial in ("S1", "S2"):
        await hub.ends(serial, "failed")
    await hub.tick()
    assert await hub.state(1) == "paused"


async def test_who_failed_and_is_tried_again_can_commit(hub: Commands) -> None:
    await hub.start(NEW, waves=("100%",), gate=Gate(base_rate=0.49, pause_at=1e6, halt_at=1e6))
    await hub.tick(3)
    for serial in ("S1", "S2"):
        await hub.ends(serial)
    await hub.ends("S3", "failed", "disk_full")
    await hub.give("retry", 1)
    await hub.tick()
    assert (await hub.row(1, "S3")).attempt == 2
    assert (await hub.row(1, "S3")).previous == OLD
    await hub.ends("S3")
    await hub.tick()
    assert await hub.counts(1) == {"committed": 3}
    await hub.check(1)


async def accepted(hub: Commands) -> dict[int, int]:
    row: Any = await hub.rollout_row(1)
    return msgspec.json.decode(row.accepted, type=Accepted).bad

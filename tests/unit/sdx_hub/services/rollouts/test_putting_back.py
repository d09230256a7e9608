"""Going back: what becomes of a member in each state, of its device, and of a step that breaks off."""

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import pytest
from sqlalchemy import text

from sdx_hub.domain.rollout.states import BACK, IN_FLIGHT, MEMBER_STATES
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import AWAY_ROWS, OPEN_ROWS, DevicePin, Rollout
from sdx_hub.services.rollouts.going_back.putting_back import batch_of, revert_step, withdraw_step
from tests.support.statements import Cut, cut_at, recorded
from tests.unit.sdx_hub.services.conftest import OPERATOR, START, MovableClock
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S, Rollouts

GOOD, BAD = "nav@1.0.0", "nav@1.1.0"
Step = Callable[..., Awaitable[int]]


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rollouts:
    hub = Rollouts(database, clock)
    await hub.release(GOOD)
    await hub.release(BAD, back_to=100)
    await hub.rollout(1, BAD)
    return hub


async def run(hub: Rollouts, step: Step, state: str, batch: int = 2_000, rollout: int = 1) -> int:
    """Put the rollout into a state, and step until nobody is left; return how many members that was."""
    total = 0
    while moved := await run_once(hub, step, state, batch, rollout):
        total += moved
    return total


async def run_once(hub: Rollouts, step: Step, state: str, batch: int = 2, rollout: int = 1) -> int:
    async with hub.database.unit_of_work() as uow:
        row = await uow.session.get_one(Rollout, rollout)
        row.state = state
        moved = await step(uow, row, hub.clock.now(), batch)
        await uow.commit()
    return moved


async def halt(hub: Rollouts, **more: Any) -> int:
    return await run(hub, withdraw_step, "halted", **more)


async def revert(hub: Rollouts, **more: Any) -> int:
    return await run(hub, revert_step, "reverting", **more)


@pytest.mark.parametrize("state", [*IN_FLIGHT, "off_duty", "silent"])
async def test_a_halt_takes_an_open_offer_back(hub: Rollouts, state: str) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", state)
    assert await hub.assigned("S1") == {"nav": BAD}
    assert await halt(hub) == 1
    assert await hub.members(1) == {"S1": ("withdrawn", "rollout_halted")}
    assert await hub.assigned("S1") == {"nav": GOOD}
    assert await hub.action("S1") == (3, "open")
    member = await hub.row(1, "S1")
    assert (member.offer_version, member.back_version, member.check_at_s) == (2, 3, None)


@pytest.mark.parametrize("state", sorted({*MEMBER_STATES} - {*IN_FLIGHT, "off_duty", "silent"}))
async def test_a_halt_leaves_everybody_else_alone(hub: Rollouts, state: str) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", state)
    before = await hub.members(1), await hub.assigned("S1"), await hub.action("S1")
    assert await halt(hub) == 0
    assert (await hub.members(1), await hub.assigned("S1"), await hub.action("S1")) == before


@pytest.mark.parametrize("state", sorted({*MEMBER_STATES} - {*BACK, "queued", "pinned", "skipped", "withdrawn"}))
async def test_a_revert_brings_a_touched_device_back(hub: Rollouts, state: str) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", state)
    assert await revert(hub) == 1
    assert await hub.members(1) == {"S1": ("reverting", "")}
    assert (await hub.outcomes(1, "S1"))[-1] == (state, "reverting")
    assert await hub.assigned("S1") == {"nav": GOOD}
    assert await hub.action("S1") == (3, "open")
    member = await hub.row(1, "S1")
    assert (member.offer_version, member.back_version) == (2, 3)
    assert member.check_at_s == int(hub.clock.now().timestamp()) + SILENT_AFTER_S
    assert await revert(hub) == 0


@pytest.mark.parametrize("state", ["queued", "pinned", "skipped"])
async def test_a_revert_leaves_alone_who_was_never_offered_anything(hub: Rollouts, state: str) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", state)
    assert await revert(hub) == 0
    assert await hub.members(1) == {"S1": (state, "")}
    assert await hub.action("S1") == (1, "success")


@pytest.mark.parametrize(
    ("ended", "state", "code", "action"),
    [
        ("open", "reverting", "", (3, "open")),
        ("success", "reverted", "is_back", (3, "success")),
        ("failed", "reverting", "", (4, "open")),
    ],
)
async def test_a_revert_after_a_halt_goes_on_with_the_way_back_that_is_under_way(
    hub: Rollouts, ended: str, state: str, code: str, action: tuple[int, str]
) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "downloading")
    await halt(hub)
    if ended != "open":
        await hub.end_action("S1", ended)
    await revert(hub)
    assert await hub.members(1) == {"S1": (state, code)}
    assert await hub.action("S1") == action
    assert (await hub.row(1, "S1")).back_version == action[0]
    assert await hub.assigned("S1") == {"nav": GOOD}


async def test_a_release_that_allows_no_way_back_stays_where_it_was_committed(hub: Rollouts) -> None:
    await hub.release("nav@1.2.0")  # Its revert counter is its own.
    await hub.rollout(2, "nav@1.2.0")
    for serial, state in (("S1", "committed"), ("S2", "failed"), ("S3", "downloading")):
        await hub.device(serial, GOOD)
        await hub.member(2, serial, state)
    await revert(hub, rollout=2)
    assert await hub.members(2) == {
        "S1": ("revert_failed", "revert_not_allowed"),
        "S2": ("reverting", ""),
        "S3": ("reverting", ""),
    }
    assert await hub.assigned("S1") == {"nav": "nav@1.2.0"}
    assert await hub.action("S1") == (2, "success")
    assert await hub.assigned("S2") == await hub.assigned("S3") == {"nav": GOOD}


async def test_where_nothing_was_assigned_before_the_offer_is_taken_away(hub: Rollouts) -> None:
    await hub.device("S1")
    await hub.member(1, "S1", "failed")
    await revert(hub)
    assert await hub.members(1) == {"S1": ("reverted", "nothing_before")}
    assert await hub.assigned("S1") == {}
    assert await hub.action("S1") == (2, "")
    async with hub.database.reading() as session:
        assert not (await session.get_one(Device, hub.ids["S1"])).has_assignment


async def test_who_committed_with_nothing_before_has_nothing_to_go_back_to(hub: Rollouts) -> None:
    await hub.device("S1")
    await hub.member(1, "S1", "committed")
    await revert(hub)
    assert await hub.members(1) == {"S1": ("revert_failed", "nothing_before")}
    assert await hub.assigned("S1") == {"nav": BAD}


async def test_another_product_of_the_device_stays_assigned(hub: Rollouts) -> None:
    camera = await hub.release("camera@3.0.0")
    await hub.device("S1", camera)
    await hub.member(1, "S1", "trial")
    await revert(hub)
    assert await hub.members(1) == {"S1": ("reverting", "")}
    assert await hub.assigned("S1") == {"camera": camera}
    assert await hub.action("S1") == (3, "open")


async def test_who_was_assigned_something_else_since_is_left_alone(hub: Rollouts) -> None:
    newer = await hub.release("nav@2.0.0")
    for serial, state in (("S1", "committed"), ("S2", "offered")):
        await hub.device(serial, GOOD)
        await hub.member(1, serial, state)
    await hub.assigning.assign(OPERATOR, newer, ["S1", "S2"])
    await hub.become(1, "S2", "offered")
    await halt(hub)
    assert (await hub.members(1))["S2"] == ("superseded", "assigned_otherwise")
    await revert(hub)
    assert await hub.members(1) == dict.fromkeys(("S1", "S2"), ("reverted", "assigned_otherwise"))
    for serial in ("S1", "S2"):
        assert await hub.assigned(serial) == {"nav": newer}
        assert await hub.action(serial) == (3, "open")


async def test_a_release_that_was_yanked_since_is_nothing_to_go_back_to(hub: Rollouts) -> None:
    for serial, state in (("S1", "committed"), ("S2", "failed")):
        await hub.device(serial, GOOD)
        await hub.member(1, serial, state)
    await hub.yank(GOOD)
    await revert(hub)
    assert await hub.members(1) == {
        "S1": ("revert_failed", "previous_not_published"),
        "S2": ("reverted", "nothing_before"),
    }
    assert await hub.assigned("S1") == {"nav": BAD}
    assert await hub.assigned("S2") == {}


async def test_devices_of_a_yanked_release_get_their_last_good_one_back(hub: Rollouts) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "committed")
    await hub.yank(BAD)
    assert await hub.assigned("S1") == {}
    await revert(hub)
    assert await hub.members(1) == {"S1": ("reverting", "")}
    assert await hub.assigned("S1") == {"nav": GOOD}


async def test_a_device_that_was_revoked_since_is_not_told_anything(hub: Rollouts) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "offered")
    await hub.revoke("S1")
    await halt(hub)
    assert await hub.members(1) == {"S1": ("withdrawn", "device_revoked")}
    await revert(hub)
    assert await hub.members(1) == {"S1": ("revert_failed", "device_revoked")}
    assert (await hub.action("S1"))[0] == 2


async def test_a_device_that_is_pinned_stays_on_what_it_committed(hub: Rollouts) -> None:
    for serial, state in (("S1", "committed"), ("S2", "failed")):
        await hub.device(serial, GOOD)
        await hub.member(1, serial, state)
        async with hub.database.unit_of_work() as uow:
            number = hub.numbers[serial]
            uow.session.add(DevicePin(number=number, reason="tested here", pinned_by="olga", pinned_at=START))
            await uow.commit()
    await revert(hub)
    assert await hub.members(1) == {"S1": ("revert_failed", "device_pinned"), "S2": ("reverting", "")}
    assert await hub.assigned("S1") == {"nav": BAD}
    assert await hub.assigned("S2") == {"nav": GOOD}


async def test_an_offer_of_another_rollout_goes_on_under_the_new_action(hub: Rollouts) -> None:
    camera = await hub.release("camera@3.0.0")
    await hub.rollout(2, camera)
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "committed")
    await hub.member(2, "S1", "downloading")
    assert (await hub.row(2, "S1")).offer_version == 3
    await revert(hub)
    assert await hub.action("S1") == (4, "open")
    assert await hub.assigned("S1") == {"camera": camera, "nav": GOOD}
    assert (await hub.members(2))["S1"] == ("downloading", "")
    assert (await hub.row(2, "S1")).offer_version == 4
    # And the way back of the first one goes on when the second one is halted.
    await halt(hub, rollout=2)
    assert await hub.action("S1") == (5, "open")
    assert (await hub.row(1, "S1")).back_version == 5
    assert await hub.assigned("S1") == {"nav": GOOD}


async def test_a_step_takes_a_batch(hub: Rollouts) -> None:
    serials = [f"S{number}" for number in range(7)]
    for serial in serials:
        await hub.device(serial, GOOD)
        await hub.member(1, serial, "trial")
    assert await halt(hub, batch=3) == 7
    assert await hub.members(1) == dict.fromkeys(serials, ("withdrawn", "rollout_halted"))
    assert await revert(hub, batch=3) == 7
    assert await hub.members(1) == dict.fromkeys(serials, ("reverting", ""))
    for serial in serials:
        assert await hub.action(serial) == (3, "open")


@pytest.mark.parametrize("step", [withdraw_step, revert_step])
async def test_a_step_that_is_cut_off_at_any_statement_loses_nothing(hub: Rollouts, step: Step) -> None:
    serials = [f"S{number}" for number in range(4)]
    for serial, state in zip(serials, ("offered", "trial", "off_duty", "silent"), strict=True):
        await hub.device(serial, GOOD)
        await hub.member(1, serial, state)
    state = "reverting" if step is revert_step else "halted"
    became = ("reverting", "") if step is revert_step else ("withdrawn", "rollout_halted")
    before = await hub.members(1)
    assert await run_once(hub, step, state) == 2  # One batch is committed, the next one is cut off.
    first = await hub.members(1)
    left = [serial for serial in serials if first[serial] == before[serial]]
    assert len(left) == 2
    for nth in count():
        with cut_at(hub.database, nth):
            try:
                assert await run_once(hub, step, state) == 2
                break
            except Cut:
                pass
        assert await hub.members(1) == first
        for serial in serials:
            assert await hub.assigned(serial) == {"nav": BAD if serial in left else GOOD}
            assert await hub.action(serial) == (2 if serial in left else 3, "open")
    assert nth > 10
    assert await run_once(hub, step, state) == 0
    assert await hub.members(1) == dict.fromkeys(serials, became)
    for serial in serials:
        assert await hub.assigned(serial) == {"nav": GOOD}
        assert await hub.action(serial) == (3, "open")
        assert [to for _, to in await hub.outcomes(1, serial)].count(became[0]) == 1


async def test_what_failed_of_another_product_goes_away_with_it(hub: Rollouts) -> None:
    """Else the device would refuse its way back, because of a part that it knows to be bad."""
    bad = await hub.release("camera@3.0.0")
    await hub.rollout(2, bad)
    await hub.device("S1", GOOD)
    await hub.member(2, "S1", "failed")
    await hub.member(1, "S1", "committed")
    assert await hub.assigned("S1") == {"camera": bad, "nav": BAD}
    await revert(hub)
    assert await hub.assigned("S1") == {"nav": GOOD}
    assert (await hub.members(2))["S1"] == ("failed", "")


async def test_who_has_nothing_left_is_back_at_once(hub: Rollouts) -> None:
    bad = await hub.release("camera@3.0.0")
    await hub.rollout(2, bad)
    await hub.device("S1")
    for rollout in (2, 1):
        await hub.member(rollout, "S1", "failed")
    await revert(hub)
    assert await hub.members(1) == {"S1": ("reverted", "nothing_before")}
    assert await hub.assigned("S1") == {}
    assert await hub.action("S1") == (3, "")


async def test_another_rollout_of_the_same_release_loses_its_offer(hub: Rollouts) -> None:
    await hub.rollout(2, BAD)
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "failed")
    await hub.member(2, "S1", "downloading")
    await revert(hub)
    assert await hub.members(1) == {"S1": ("reverting", "")}
    assert await hub.members(2) == {"S1": ("superseded", "rollout_reverting")}
    assert await hub.assigned("S1") == {"nav": GOOD}


@pytest.mark.parametrize("step", [withdraw_step, revert_step])
async def test_a_step_takes_as_many_statements_for_many_as_for_few(hub: Rollouts, step: Step) -> None:
    for number in range(12):
        await hub.device(f"S{number}", GOOD)
        await hub.member(1, f"S{number}", "trial")
    state = "reverting" if step is revert_step else "halted"
    await hub.set_state(1, state)
    sent = []
    for batch in (2, 10):
        with recorded(hub.database) as statements:
            assert await run_once(hub, step, state, batch) == batch
        sent.append(len(statements))
    assert sent[0] == sent[1] < 40
    with recorded(hub.database) as statements:
        assert await run_once(hub, step, state) == 0
    assert len(statements) < 10


async def test_members_that_are_left_are_found_in_an_index(hub: Rollouts) -> None:
    async with hub.database.reading() as session:
        row = await session.get_one(Rollout, 1)
        for rows, index in ((OPEN_ROWS, "ix_rollout_device_open"), (AWAY_ROWS, "ix_rollout_device_away")):
            query = batch_of(row, rows, 2).compile(session.get_bind(), compile_kwargs={"literal_binds": True})
            if hub.database.backend == "postgresql":
                await session.execute(text("SET LOCAL enable_seqscan = off"))
                plan = await session.execute(text(f"EXPLAIN {query}"))
            else:
                plan = await session.execute(text(f"EXPLAIN QUERY PLAN {query}"))
            assert index in str(plan.all())

"""Members are written from one snapshot, in chunks, and a crash at any point costs nothing but time."""

import json
from collections import Counter as Tally
from typing import Any

import pytest
from sqlmodel import col

from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice, RolloutStratum, RolloutTally, RolloutWave
from sdx_hub.services.rollouts.planning import preparing
from sdx_hub.services.rollouts.planning.preparing import Preparer
from tests.unit.sdx_hub.services.conftest import MovableClock
from tests.unit.sdx_hub.services.rollouts.planned import PlannedFleet

MEMBER = (
    col(RolloutDevice.position),
    col(RolloutDevice.number),
    col(RolloutDevice.wave),
    col(RolloutDevice.stratum),
    col(RolloutDevice.site),
)


@pytest.fixture
def fleet(database: Database, clock: MovableClock) -> PlannedFleet:
    return PlannedFleet(database, clock)


async def step(fleet: PlannedFleet, preparer: Preparer, *, commits: bool = True) -> bool:
    await preparer.look_up(1)
    async with fleet.database.unit_of_work() as uow:
        row = await uow.session.get(Rollout, 1)
        assert row is not None
        done = await preparer.step(uow, row)
        if commits:
            await uow.commit()
        return done


async def finish(fleet: PlannedFleet, preparer: Preparer) -> int:
    """Prepare to the end; return how many steps it took."""
    for steps in range(1, 50):
        if await step(fleet, preparer):
            return steps
    raise AssertionError("It never ends.")


async def everything(fleet: PlannedFleet) -> dict[str, Any]:
    row = await fleet.row()
    wave = (col(RolloutWave.wave), col(RolloutWave.label), col(RolloutWave.size))
    tally = (col(RolloutTally.wave), col(RolloutTally.stratum), col(RolloutTally.state), col(RolloutTally.devices))
    return {
        "members": await fleet.rows(RolloutDevice, *MEMBER, col(RolloutDevice.is_control), col(RolloutDevice.state)),
        "waves": await fleet.rows(RolloutWave, *wave),
        "strata": await fleet.rows(RolloutStratum, col(RolloutStratum.stratum), col(RolloutStratum.name)),
        "tallies": await fleet.rows(RolloutTally, *tally),
        "left_out": json.loads(row.left_out),
        "through": row.prepared_through,
    }


async def two_kinds(fleet: PlannedFleet) -> None:
    """17 of one kind, 7 of another; the release is for both, and not for two more."""
    release = await fleet.release("steady@2.0.0", hardware=("rpi4", "quad-x4"))
    for number in range(17):
        await fleet.device(f"A{number}", site="north")
    for number in range(7):
        await fleet.device(f"B{number}", hardware="quad-x4", site="south")
    for number in range(2):
        await fleet.device(f"C{number}", hardware="esp32")
    await fleet.rollout(fleet.order(release, query='serial ~ "*"', waves=("1", "3", "50%", "100%")))


async def test_everything_is_written(fleet: PlannedFleet) -> None:
    await two_kinds(fleet)
    assert await finish(fleet, Preparer(fleet.database, fleet.clock)) == 1
    found = await everything(fleet)
    assert found["waves"] == [(1, "1", 1), (2, "3", 2), (3, "50%", 9), (4, "100%", 12)]
    assert found["strata"] == [(1, "rpi4 / site=north"), (2, "quad-x4 / site=south")]
    assert found["left_out"] == {"wrong_hardware": 2}
    assert [member[0] for member in found["members"]] == list(range(1, 25))
    assert {member[1] for member in found["members"]} == {
        fleet.numbers[serial] for serial in fleet.numbers if serial[0] in "AB"
    }
    assert {(member[3], member[4]) for member in found["members"]} == {(1, "north"), (2, "south")}
    assert {member[3] for member in found["members"][:3]} == {1, 2}
    counted = Tally((member[2], member[3], "queued") for member in found["members"])
    assert {tally[:3]: tally[3] for tally in found["tallies"]} == counted
    assert {member[6] for member in found["members"]} == {"queued"}
    assert found["through"] == 24


async def test_chunks_are_the_same_as_one_go(fleet: PlannedFleet) -> None:
    await two_kinds(fleet)
    await finish(fleet, Preparer(fleet.database, fleet.clock))
    whole = await everything(fleet)
    async with fleet.database.unit_of_work() as uow:
        row = await uow.session.get(Rollout, 1)
        assert row is not None
        row.snapshot, row.prepared_through = 1, 20  # As if somebody had not come to the end.
        await uow.commit()
    assert await finish(fleet, Preparer(fleet.database, fleet.clock, chunk=5)) == 5 + 5
    assert await everything(fleet) == whole


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("commits", [True, False])
async def test_a_crash_at_any_point_leaves_the_same_members(fleet: PlannedFleet, steps: int, commits: bool) -> None:
    await two_kinds(fleet)
    first = Preparer(fleet.database, fleet.clock, chunk=5)
    for _ in range(steps):
        await step(fleet, first)
    await step(fleet, first, commits=commits)
    await finish(fleet, Preparer(fleet.database, fleet.clock, chunk=7))
    after = await everything(fleet)
    assert len(after["members"]) == len({member[1] for member in after["members"]}) == 24
    assert [member[0] for member in after["members"]] == list(range(1, 25))
    counted = Tally((member[2], member[3], "queued") for member in after["members"])
    assert {tally[:3]: tally[3] for tally in after["tallies"]} == counted
    assert after["through"] == 24


async def test_what_the_fleet_became_in_between_is_not_mixed_in(fleet: PlannedFleet) -> None:
    """The next leader looks again, and nothing of the earlier look stays."""
    await two_kinds(fleet)
    first = Preparer(fleet.database, fleet.clock, chunk=5)
    await step(fleet, first)
    await step(fleet, first)
    for serial in ("A0", "A1", "A2", "A3", "A4", "A5", "B0"):
        await fleet.pinned(serial)
    await finish(fleet, Preparer(fleet.database, fleet.clock, chunk=5))
    after = await everything(fleet)
    assert len(after["members"]) == 17
    assert after["left_out"] == {"pinned": 7, "wrong_hardware": 2}
    assert sum(size for _, _, size in after["waves"]) == 17


async def test_a_leader_that_was_replaced_writes_nothing_into_the_next_ones_list(fleet: PlannedFleet) -> None:
    await two_kinds(fleet)
    old, new = (Preparer(fleet.database, fleet.clock, chunk=5) for _ in range(2))
    await step(fleet, old)
    await step(fleet, new)  # Takes the old one's five away.
    await step(fleet, new)
    await fleet.device("A99", site="north")
    for _ in range(3):  # It is back, with what it knew.
        await step(fleet, old)
    await finish(fleet, new)
    numbers = await fleet.rows(RolloutDevice, col(RolloutDevice.number))
    assert len(numbers) == 24
    assert (await fleet.row()).prepared_through == 24


async def test_when_all_is_written_the_next_leader_need_not_look(
    fleet: PlannedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_kinds(fleet)
    await finish(fleet, Preparer(fleet.database, fleet.clock))

    async def never(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(preparing, "choose", never)
    assert await finish(fleet, Preparer(fleet.database, fleet.clock)) == 1


async def test_nobody_matches(fleet: PlannedFleet) -> None:
    release = await fleet.release("steady@2.0.0")
    await fleet.rollout(fleet.order(release, query="tag = nobody"))
    assert await finish(fleet, Preparer(fleet.database, fleet.clock)) == 1
    found = await everything(fleet)
    assert (found["members"], found["waves"], found["tallies"]) == ([], [(1, "100%", 0)], [])


async def test_controls_are_the_last_that_were_heard_and_not_in_the_first_wave(
    fleet: PlannedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "MAX_CONTROLS", 4)
    release = await fleet.release("steady@2.0.0")
    for number in range(10):
        await fleet.device(f"A{number}", seen_ago_s=None if number < 3 else 60)
    await fleet.rollout(fleet.order(release, waves=("2", "50%", "100%")))
    await finish(fleet, Preparer(fleet.database, fleet.clock))
    controls = await fleet.rows(RolloutDevice, col(RolloutDevice.position), col(RolloutDevice.is_control))
    assert [position for position, is_control in controls if is_control] == [4, 5, 6, 7]
    absent = {fleet.numbers[f"A{number}"] for number in range(3)}
    assert {number for _, number, *_ in await fleet.rows(RolloutDevice, *MEMBER) if _ and number in absent} == absent
    last = await fleet.rows(RolloutDevice, col(RolloutDevice.position), col(RolloutDevice.number))
    assert {number for position, number in last if position > 7} == absent

"""What a tick does, on both databases: offers, outcomes, waves, decisions."""

import pytest

from sdx_hub.domain.rollout.policy import Gate, Order
from sdx_hub.persistence.database import Database
from sdx_hub.services.rollouts.engine.engine import RolloutEngine
from tests.unit.sdx_hub.services.conftest import OPERATOR, MovableClock
from tests.unit.sdx_hub.services.rollouts.commands import Commands
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S
from tests.unit.sdx_hub.services.rollouts.rolling import NEVER, Rolling

OLD, NEW = "nav@1.0.0", "nav@2.0.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rolling:
    hub = Rolling(database, clock)
    await hub.release(OLD)
    await hub.release(NEW)
    return hub


async def test_a_rollout_goes_through_its_waves_and_finishes(hub: Rolling) -> None:
    serials = [f"S{number}" for number in range(10)]
    await hub.craft(*serials, assigned=OLD)
    await hub.begin(1, NEW, waves=("1", "50%", "100%"))
    seen = []
    for _ in range(3):
        await hub.check(1)
        offered = [serial for serial, state in (await hub.states(1)).items() if state == "offered"]
        seen.append(len(offered))
        for serial in offered:
            assert await hub.assigned(serial) == {"nav": NEW}
            for state in ("OFFERED", "DOWNLOADING", "VERIFIED", "READY", "INSTALLING", "TRIAL"):
                await hub.says(serial, state)
            await hub.ends(serial)
        await hub.tick()
    assert seen == [1, 4, 5]
    assert await hub.counts(1) == {"committed": 10}
    await hub.check(1)
    row = await hub.rollout_row(1)
    assert (row.state, row.code, row.wave) == ("finished", "all_done", 3)
    assert row.ended_at is not None
    assert await hub.waves(1) == [(1, True, True), (2, True, True), (3, True, True)]
    assert await hub.rules(1) == ["open_wave", "open_wave", "open_wave", "finish"]
    assert await hub.outcomes(1, "S0") == [
        ("queued", "offered"),
        ("offered", "downloading"),
        ("downloading", "verified"),
        ("verified", "waiting"),
        ("waiting", "installing"),
        ("installing", "trial"),
        ("trial", "committed"),
    ]


async def test_who_is_not_heard_of(hub: Rolling) -> None:
    await hub.craft("off", "heard", "busy", "switched", assigned=OLD)
    hub.clock.move(seconds=10)
    await hub.begin(1, NEW, gate=NEVER)
    hub.clock.move(seconds=10)
    await hub.polls("heard", "busy", "switched")
    await hub.says("busy", "DOWNLOADING")
    await hub.says("switched", "INSTALLING")
    hub.clock.move(seconds=SILENT_AFTER_S - 11)
    await hub.tick()
    assert await hub.states(1) == {
        "off": "offered",
        "heard": "offered",
        "busy": "downloading",
        "switched": "installing",
    }
    hub.clock.move(seconds=20)
    await hub.tick(2)
    assert await hub.members(1) == {
        "off": ("off_duty", "off_duty"),
        "heard": ("silent", "silent"),
        "busy": ("silent", "silent"),
        "switched": ("lost", "lost_contact"),
    }
    await hub.check(1)


async def test_a_critical_outcome_that_was_accepted_and_tried_again_pauses_again(
    database: Database, clock: MovableClock
) -> None:
    hub = Commands(database, clock)
    await hub.release(OLD)
    await hub.signed(NEW, "anna", "paul")
    await hub.craft("S1", "S2", assigned=OLD)
    await hub.service.start(OPERATOR, Order(release=NEW, waves=("100%",), gate=Gate(pause_at=1e5, halt_at=1e6)))
    await hub.tick(3)
    await hub.ends("S1", "rolled_back", "trial_starts_used_up")
    await hub.ends("S2", "failed", "disk_full")
    await hub.tick()
    assert (await hub.rollout_row(1)).code == "critical_outcome"
    await hub.service.resume(OPERATOR, "ro-1", "the watchdog was set too short")
    await hub.service.retry(OPERATOR, "ro-1", ["S1"])
    await hub.tick()
    assert (await hub.rollout_row(1)).state == "running"
    await hub.ends("S1", "rolled_back", "trial_starts_used_up")
    await hub.tick()
    row = await hub.rollout_row(1)
    assert (row.state, row.code) == ("paused", "critical_outcome")


async def test_a_revert_brings_back_whom_a_retry_had_queued_again(database: Database, clock: MovableClock) -> None:
    hub = Commands(database, clock)
    await hub.release(OLD)
    await hub.signed(NEW, "anna", "paul")
    await hub.craft("S1", assigned=OLD)
    await hub.service.start(OPERATOR, Order(release=NEW, waves=("100%",), gate=NEVER))
    await hub.tick(3)
    await hub.ends("S1", "failed", "disk_full")
    await hub.tick()
    await hub.service.pause(OPERATOR, "ro-1")
    await hub.service.retry(OPERATOR, "ro-1", None)
    await hub.service.revert(OPERATOR, "ro-1")
    await hub.tick()
    assert (await hub.rollout_row(1)).state == "reverting"
    assert await hub.assigned("S1") == {"nav": OLD}
    await hub.ends("S1")
    await hub.tick(2)
    assert await hub.counts(1) == {"reverted": 1}
    assert (await hub.rollout_row(1)).state == "reverted"


async def test_a_revert_is_not_over_while_somebody_is_left_for_the_next_step(
    database: Database, clock: MovableClock
) -> None:
    """The first one has something else by now, and ends at once; the second one is a step later."""
    hub = Commands(database, clock)
    hub.engine = RolloutEngine(database, clock, hub.fleet, batch=1)
    await hub.release(OLD)
    await hub.release("nav@3.0.0")
    await hub.signed(NEW, "anna", "paul")
    await hub.craft("S1", "S2", assigned=OLD)
    await hub.service.start(OPERATOR, Order(release=NEW, waves=("100%",), gate=NEVER))
    await hub.tick(4)
    for serial in ("S1", "S2"):
        await hub.ends(serial, "failed", "disk_full")
    await hub.tick()
    await hub.service.pause(OPERATOR, "ro-1")
    await hub.service.retry(OPERATOR, "ro-1", None)
    await hub.assigning.assign(OPERATOR, "nav@3.0.0", ["S1"])
    await hub.service.revert(OPERATOR, "ro-1")
    await hub.tick()
    assert (await hub.states(1), (await hub.rollout_row(1)).state) == ({"S1": "reverted", "S2": "queued"}, "reverting")
    await hub.tick()
    assert await hub.states(1) == {"S1": "reverted", "S2": "reverting"}
    assert await hub.assigned("S2") == {"nav": OLD}


@pytest.mark.parametrize("end", ["finished", "cancelled"])
async def test_what_has_ended_can_still_be_brought_back(database: Database, clock: MovableClock, end: str) -> None:
    hub = Commands(database, clock)
    await hub.release(OLD)
    await hub.release(NEW, back_to=100)
    await hub.craft("S1", "S2", assigned=OLD)
    await hub.begin(1, NEW)
    for serial in ("S1", "S2"):
        await hub.ends(serial)
    if end == "cancelled":
        await hub.service.cancel(OPERATOR, "ro-1")
    await hub.tick()
    assert (await hub.rollout_row(1)).state == end
    await hub.service.revert(OPERATOR, "ro-1", "too heavy for the new propellers")
    await hub.tick()
    assert await hub.counts(1) == {"reverting": 2}
    for serial in ("S1", "S2"):
        assert await hub.assigned(serial) == {"nav": OLD}
        await hub.ends(serial)
    await hub.tick()
    assert await hub.counts(1) == {"reverted": 2}
    row = await hub.rollout_row(1)
    assert (row.state, row.ended_at) == ("reverted", clock.now())
    await hub.check(1)

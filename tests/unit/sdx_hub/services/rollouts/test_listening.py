"""Who is not heard of: off before the offer, silent after it, lost after the switch, and heard of again."""

import pytest

from sdx_hub.persistence.database import Database
from sdx_hub.services.rollouts.engine.engine import RolloutEngine
from tests.unit.sdx_hub.services.conftest import MovableClock
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S
from tests.unit.sdx_hub.services.rollouts.rolling import NEVER, Rolling

OLD, NEW, CAMERA = "nav@1.0.0", "nav@2.0.0", "camera@1.0.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rolling:
    hub = Rolling(database, clock)
    for release in (OLD, CAMERA):
        await hub.release(release)
    await hub.release(NEW, back_to=100)
    await hub.craft("S1", "S2", assigned=OLD)
    hub.clock.move(seconds=10)
    return hub


async def test_who_polls_is_watched_from_the_last_poll_on(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    for _ in range(3):
        hub.clock.move(seconds=SILENT_AFTER_S - 1)
        await hub.polls("S1")
        hub.clock.move(seconds=2)
        await hub.tick()
    assert await hub.states(1) == {"S1": "offered", "S2": "off_duty"}
    hub.clock.move(seconds=SILENT_AFTER_S)
    await hub.tick()
    assert await hub.states(1) == {"S1": "silent", "S2": "off_duty"}
    await hub.check(1)


async def test_who_was_off_is_offered_the_release_again_when_it_polls(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    hub.clock.move(seconds=SILENT_AFTER_S + 1)
    await hub.tick()
    assert await hub.counts(1) == {"off_duty": 2}
    hub.clock.move(seconds=SILENT_AFTER_S // 2)
    await hub.polls("S1")
    hub.clock.move(seconds=SILENT_AFTER_S // 2 + 1)
    await hub.tick()
    assert await hub.members(1) == {"S1": ("offered", "heard_again"), "S2": ("off_duty", "off_duty")}
    hub.clock.move(seconds=SILENT_AFTER_S // 2 + 1)
    await hub.tick()
    assert await hub.states(1) == {"S1": "silent", "S2": "off_duty"}
    await hub.says("S2", "DOWNLOADING")
    assert await hub.states(1) == {"S1": "silent", "S2": "downloading"}
    await hub.tick()
    await hub.check(1)


async def test_who_was_off_does_not_come_back_into_the_way_of_another_rollout(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    hub.clock.move(seconds=SILENT_AFTER_S + 1)
    await hub.tick()
    await hub.begin(2, CAMERA, gate=NEVER)
    assert await hub.counts(1) == {"off_duty": 2}
    assert await hub.counts(2) == {"offered": 2}
    hub.clock.move(seconds=SILENT_AFTER_S // 2)
    await hub.polls("S1")
    hub.clock.move(seconds=SILENT_AFTER_S // 2)
    await hub.says("S1", "DOWNLOADING")
    await hub.tick()
    assert (await hub.states(1))["S1"] == "off_duty"
    assert (await hub.states(2))["S1"] == "downloading"
    await hub.ends("S1")
    assert (await hub.states(1))["S1"] == (await hub.states(2))["S1"] == "committed"
    await hub.tick()
    await hub.check(1)
    await hub.check(2)


async def test_who_is_not_heard_of_on_the_way_back_is_given_up(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER, query="serial = S1")
    await hub.ends("S1")
    await hub.set_state(1, "reverting")
    await hub.tick()
    assert await hub.states(1) == {"S1": "reverting"}
    action = await hub.current("S1")
    hub.clock.move(seconds=SILENT_AFTER_S + 1)
    await hub.tick(2)
    assert await hub.members(1) == {"S1": ("revert_failed", "silent")}
    assert (await hub.rollout_row(1)).state == "reverted"
    await hub.ends("S1", action=action)
    assert await hub.states(1) == {"S1": "reverted"}
    hub.clock.move(seconds=15)
    await hub.tick()
    await hub.check(1)


async def test_nobody_is_missed_after_a_time_without_the_hub(hub: Rolling) -> None:
    hub.engine = RolloutEngine(hub.database, hub.clock, hub.fleet, grace_s=120)
    await hub.begin(1, NEW, gate=NEVER)
    hub.clock.move(seconds=3 * SILENT_AFTER_S)
    await hub.tick()
    hub.clock.move(seconds=100)
    await hub.polls("S1")
    await hub.tick()
    assert await hub.counts(1) == {"offered": 2}
    hub.clock.move(seconds=21)
    await hub.tick()
    assert await hub.states(1) == {"S1": "offered", "S2": "off_duty"}

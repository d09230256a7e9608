"""What is counted of rollouts, and who looks after them."""

import asyncio
import time

import pytest

from sdx_hub.observing import ROLLOUT_LEADER, ROLLOUT_TICK, ROLLOUT_TICKED_S, observed
from sdx_hub.persistence.database import Database
from sdx_hub.services.rollouts.engine.leadership import Leadership
from sdx_hub.services.rollouts.engine.rollout_figures import rollout_figures
from tests.support.postgres import Databases
from tests.unit.sdx_hub.services.events.test_following import add_rollout


async def test_members_of_rollouts_that_ended_are_not_under_way(database: Database) -> None:
    empty = await rollout_figures(database)
    assert (set(empty.rollouts.values()), empty.in_flight) == ({0}, 0)
    await add_rollout(database, 1, "running", queued=70, offered=5, trial=2, committed=9)
    await add_rollout(database, 2, "halted", waiting=1, failed=3)
    await add_rollout(database, 3, "cancelled", offered=4)
    figures = await rollout_figures(database)
    assert figures.in_flight == 8
    assert {state: count for state, count in figures.rollouts.items() if count} == {
        "running": 1,
        "halted": 1,
        "cancelled": 1,
    }


async def tick() -> None:
    await asyncio.sleep(0)


async def test_the_leader_marks_itself_and_its_ticks(databases: Databases) -> None:
    url = databases.emptied()
    first, second = await Database.open(url), await Database.open(url)
    leader, other = Leadership(first), Leadership(second)
    try:
        before_s = time.time()
        observed.take_seconds()
        await leader.only(tick)()
        assert observed.marks[ROLLOUT_LEADER] == 1
        assert before_s <= observed.marks[ROLLOUT_TICKED_S] <= time.time()
        assert len(observed.take_seconds()[ROLLOUT_TICK]) == 1
        observed.mark(ROLLOUT_TICKED_S, 0)
        await other.only(tick)()
        assert observed.marks[ROLLOUT_LEADER] == observed.marks[ROLLOUT_TICKED_S] == 0
        await leader.resign()
        await other.only(tick)()
        assert observed.marks[ROLLOUT_LEADER] == 1
    finally:
        await leader.resign()
        await other.resign()
        await first.close()
        await second.close()


async def test_a_tick_that_fails_is_none(database: Database) -> None:
    async def fail() -> None:
        raise OSError

    observed.mark(ROLLOUT_TICKED_S, 7)
    leadership = Leadership(database)
    with pytest.raises(OSError):
        await leadership.only(fail)()
    assert observed.marks[ROLLOUT_TICKED_S] == 7
    await leadership.resign()

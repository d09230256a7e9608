"""What holds wherever a tick is cut off, whoever else ticks at the same time, and however many members there are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import func, insert, select
from sqlmodel import SQLModel, col
from structlog.testing import capture_logs

from sdx_hub.domain.rollout.policy import Limits
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.devices import Device, DeviceSeen
from sdx_hub.persistence.tables.rollouts import IN_FLIGHT_ROWS, RolloutDevice, RolloutOutcome
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, DEVICE_NUMBER_COUNTER
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.rollouts.engine.engine import RolloutEngine
from tests.support.statements import Cut, cut_at, recorded
from tests.unit.sdx_hub.services.conftest import START, MovableClock
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S
from tests.unit.sdx_hub.services.rollouts.rolling import NEVER, Rolling

OLD, NEW = "nav@1.0.0", "nav@2.0.0"
STATEMENTS = 60
"""More than any tick of a rollout needs."""


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rolling:
    hub = Rolling(database, clock)
    await hub.release(OLD)
    await hub.release(NEW)
    return hub


async def many(hub: Rolling, count: int) -> None:
    """Devices by their rows alone; nobody has their keys."""
    async with hub.database.unit_of_work() as uow:
        last = await uow._take_numbers(DEVICE_NUMBER_COUNTER, count)
        seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        rows: list[dict[str, Any]] = [
            {
                "id": f"d-{number:020}",
                "number": number,
                "serial": f"M{number}",
                "device_key": f"{number:064x}",
                "hardware": "rpi4",
                "state": "accepted",
                "token_sha256": f"{number:064x}",
                "change_seq": seq,
                "report_counter": 0,
                "desired_version": 0,
                "created_at": START,
            }
            for number in range(last - count + 1, last + 1)
        ]
        await uow.session.execute(insert(Device), rows)
        seen = [{"number": row["number"], "last_seen_s": int(START.timestamp())} for row in rows]
        await uow.session.execute(insert(DeviceSeen), seen)
        await uow.commit()


async def test_the_statements_of_a_tick_do_not_depend_on_how_many_members_it_comes_to(hub: Rolling) -> None:
    counts = {}
    await many(hub, 10)
    for number, devices in ((1, 10), (2, 1_000)):
        if number == 2:
            await many(hub, 990)
        hub.clock.move(seconds=10)
        await hub.order(number, await hub.release(f"product{number}@1.0.0"))
        await hub.tick()
        with recorded(hub.database) as offers:
            await hub.tick()
        assert await hub.counts(number) == {"offered": devices}
        hub.clock.move(seconds=SILENT_AFTER_S + 1)
        with recorded(hub.database) as silence:
            await hub.tick()
        assert await hub.counts(number) == {"off_duty": devices}
        with recorded(hub.database) as nothing:
            await hub.tick()
        counts[devices] = (len(offers), len(silence), len(nothing))
        print(f"{devices} members: statements of offering, missing, nothing: {counts[devices]}")
        await hub.set_state(number, "finished")
    assert counts[10] == counts[1_000]
    assert max(counts[1_000]) <= STATEMENTS


async def test_a_tick_that_is_cut_off_anywhere_leaves_nothing_half_done(hub: Rolling) -> None:
    await hub.craft("S0", "S1", "S2", assigned=OLD)
    hub.clock.move(seconds=10)
    await hub.order(1, NEW, waves=("1", "100%"), gate=NEVER)
    await hub.tick()
    for name in ("first wave", "second wave", "silence", "withdrawing", "reverting"):
        if name == "second wave":
            serial = next(serial for serial, state in (await hub.states(1)).items() if state == "offered")
            await hub.ends(serial)
        if name == "silence":
            hub.clock.move(seconds=SILENT_AFTER_S + 1)
        if name == "withdrawing":
            await hub.set_state(1, "halted")
        if name == "reverting":
            await hub.set_state(1, "reverting")
        before = await everything(hub)
        for nth in range(STATEMENTS * 3):
            with capture_logs(), cut_at(hub.database, nth) as done:
                try:
                    await hub.tick()
                except Cut:
                    assert await everything(hub) == before, (name, nth, done[-1])
                    continue
            break
        else:
            pytest.fail("It came to no end.")
        print(f"{name}: cut at {nth} statements")
        assert nth > 5
        assert await everything(hub) != before
        await hub.check(1)


async def everything(hub: Rolling) -> list[Any]:
    """What a tick writes, all of it."""
    async with hub.database.reading() as session:
        return [
            [tuple(row) for row in await session.execute(select(table).order_by(*table.primary_key.columns))]
            for name, table in sorted(SQLModel.metadata.tables.items())
            if name != "device_seen"
        ]


async def test_two_engines_at_the_same_time_do_nothing_twice(hub: Rolling, clock: MovableClock) -> None:
    await many(hub, 60)
    hub.clock.move(seconds=10)
    await hub.order(1, NEW, waves=("10%", "50%", "100%"), limits=Limits(in_flight=7), quorum=0.0)
    async with another(hub, clock) as other:
        for step in range(60):
            await asyncio.gather(hub.engine.tick(), other.tick())
            async with hub.database.reading() as session:
                in_flight = await session.scalar(select(func.count()).where(IN_FLIGHT_ROWS).select_from(RolloutDevice))
            assert in_flight <= 7
            if step % 3 == 2:
                hub.clock.move(seconds=SILENT_AFTER_S + 1)
            await hub.check(1)
            if (await hub.rollout_row(1)).state == "finished":
                break
    assert await hub.counts(1) == {"off_duty": 60}
    assert await hub.rules(1) == ["open_wave", "open_wave", "open_wave", "finish"]
    offers = await hub._rows(
        select(col(RolloutOutcome.number), func.count())
        .where(col(RolloutOutcome.state) == "offered")
        .group_by(col(RolloutOutcome.number))
    )
    assert dict(offers) == dict.fromkeys(range(1, 61), 1)
    actions = await hub._rows(select(col(Action.device_id), func.count()).group_by(col(Action.device_id)))
    assert [count for _, count in actions] == [1] * 60


@asynccontextmanager
async def another(hub: Rolling, clock: MovableClock) -> AsyncIterator[RolloutEngine]:
    """The engine of another replica, with connections of its own."""
    url = hub.database.writer.url.render_as_string(hide_password=False)
    database = await Database.open(url, clock)
    try:
        yield RolloutEngine(database, clock, FleetState(database, clock, PollSettings()))
    finally:
        await database.close()

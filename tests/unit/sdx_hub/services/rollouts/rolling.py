"""A hub whose engine ticks when the test says so, with crafts that poll and report."""

from collections import Counter
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlmodel import col

from firmware_schemas.device_api import ProgressReport, Result, ResultReport
from firmware_schemas.ids import DeviceId
from sdx_hub.domain.rollout.policy import Gate, Order, Soak
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import (
    Rollout,
    RolloutDecision,
    RolloutDevice,
    RolloutOutcome,
    RolloutTally,
    RolloutWave,
)
from sdx_hub.services.devices.reports import ReportService
from sdx_hub.services.rollouts.engine.engine import RolloutEngine
from tests.unit.sdx_hub.services.conftest import OPERATOR, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft
from tests.unit.sdx_hub.services.devices.test_fleet_state import add
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S, Rollouts

NEVER = Gate(base_rate=0.49, pause_at=1e6, halt_at=1e6, critical=())
"""It stops at nothing that a few devices do."""


class Rolling(Rollouts):
    def __init__(self, database: Database, clock: MovableClock) -> None:
        super().__init__(database, clock)
        self.engine = RolloutEngine(database, clock, self.fleet)
        self.reports = ReportService(database, clock, self.fleet)
        self.crafts: dict[str, Craft] = {}

    async def craft(self, *serials: str, assigned: str | None = None, **fields: Any) -> None:
        """Crafts that polled just now."""
        for serial in serials:
            craft = self.crafts[serial] = Craft(serial)
            self.numbers[serial] = await add(self.database, craft, **fields)
            self.ids[serial] = craft.id
            if assigned is not None:
                await self.assigning.assign(OPERATOR, assigned, [serial])
                await self.end_action(serial, "success")
        await self.polls(*serials)

    async def order(self, number: int, release: str, **order: Any) -> int:
        """A rollout that is to be prepared."""
        order = {"silent_after_s": SILENT_AFTER_S, "soak": Soak(), "waves": ("100%",), "stratify": ()} | order
        ordered = Order(release=release, **order)
        async with self.database.unit_of_work() as uow:
            uow.session.add(
                Rollout(
                    number=number,
                    release_id=release,
                    product=release.partition("@")[0],
                    state="preparing",
                    spec=msgspec.json.encode(ordered).decode(),
                    seed=7,
                    priority=ordered.priority,
                    urgent=bool(ordered.urgent),
                    created_by=OPERATOR.name,
                    created_at=self.clock.now(),
                )
            )
            await uow.commit()
        return number

    async def tick(self, times: int = 1) -> None:
        for _ in range(times):
            await self.engine.tick()

    async def begin(self, number: int, release: str, **order: Any) -> int:
        """Order, and tick until the first offers are made."""
        await self.order(number, release, **order)
        await self.tick(2)
        return number

    async def polls(self, *serials: str) -> None:
        self.fleet.sightings.seen.update(self.numbers[serial] for serial in serials)
        await self.fleet.sightings.flush()

    async def says(self, serial: str, state: str, action: str = "") -> None:
        await self._send(serial, ProgressReport(action or await self.current(serial), state))

    async def ends(self, serial: str, result: Result = "success", code: str = "", action: str = "") -> None:
        await self._send(serial, ResultReport(action or await self.current(serial), result, {}, code))

    async def current(self, serial: str) -> str:
        """The action that the device is told of."""
        rows = await self._rows(select(col(Device.desired_version)).where(col(Device.id) == self.ids[serial]))
        return f"{self.ids[serial]}.{rows[0][0]}"

    async def states(self, rollout: int) -> dict[str, str]:
        return {serial: state for serial, (state, _) in (await self.members(rollout)).items()}

    async def counts(self, rollout: int) -> Counter[str]:
        return Counter((await self.states(rollout)).values())

    async def waves(self, rollout: int) -> list[tuple[int, bool, bool]]:
        """Number, whether it was opened, whether it was closed."""
        rows = await self._rows(
            select(col(RolloutWave.wave), col(RolloutWave.opened_at), col(RolloutWave.closed_at))
            .where(col(RolloutWave.rollout) == rollout)
            .order_by(col(RolloutWave.wave))
        )
        return [(wave, opened is not None, closed is not None) for wave, opened, closed in rows]

    async def rules(self, rollout: int) -> list[str]:
        rows = await self._rows(
            select(col(RolloutDecision.rule))
            .where(col(RolloutDecision.rollout) == rollout)
            .order_by(col(RolloutDecision.id))
        )
        return [rule for (rule,) in rows]

    async def open_actions(self) -> int:
        rows = await self._rows(select(func.count()).select_from(Action).where(col(Action.state) == "open"))
        return int(rows[0][0])

    async def check(self, rollout: int) -> None:
        """Members are what their outcomes say, and tallies are their sum up to where they were counted."""
        async with self.database.reading() as session:
            row = await session.get_one(Rollout, rollout)
            members = (await session.scalars(select(RolloutDevice).where(col(RolloutDevice.rollout) == rollout))).all()
            outcomes = (
                await session.scalars(
                    select(RolloutOutcome)
                    .where(col(RolloutOutcome.rollout) == rollout)
                    .order_by(col(RolloutOutcome.id))
                )
            ).all()
            tallies = (await session.scalars(select(RolloutTally).where(col(RolloutTally.rollout) == rollout))).all()
        joined = {outcome.number for outcome in outcomes if not outcome.was}
        state = {member.number: "queued" for member in members if member.number not in joined}
        counted = dict(state)
        for outcome in outcomes:
            assert outcome.id is not None
            assert state.get(outcome.number, "") == outcome.was, (outcome.number, outcome.was, outcome.state)
            state[outcome.number] = outcome.state
            if outcome.id <= row.outcomes_through:
                counted[outcome.number] = outcome.state
        assert {member.number: member.state for member in members} == state
        sums = Counter(
            (member.wave, member.stratum, counted[member.number]) for member in members if member.number in counted
        )
        assert (
            Counter({(tally.wave, tally.stratum, tally.state): tally.devices for tally in tallies if tally.devices})
            == sums
        )

    async def _send(self, serial: str, body: Any) -> None:
        craft = self.crafts[serial]
        receipts = (await self.reports.receive(DeviceId(craft.id), craft.batch(body))).receipts
        assert [receipt.status for receipt in receipts] == ["accepted"]

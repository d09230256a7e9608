"""What the engine decides is kept with all that it looked at, so that it can be made again."""

import hashlib
import json

import msgspec
import pytest
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Decision, Facts
from sdx_hub.domain.rollout.policy import Gate
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.events import HubEvent
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDecision
from sdx_hub.services.outcomes.log import mark_of
from sdx_hub.services.rollouts.records.facts_rows import load_facts
from tests.unit.sdx_hub.services.conftest import MovableClock
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S
from tests.unit.sdx_hub.services.rollouts.rolling import NEVER, Rolling

OLD, NEW = "nav@1.0.0", "nav@2.0.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rolling:
    hub = Rolling(database, clock)
    for release in (OLD, NEW):
        await hub.release(release)
    return hub


async def events(hub: Rolling) -> list[tuple[str, dict[str, object]]]:
    async with hub.database.reading() as session:
        rows = await session.scalars(select(HubEvent).order_by(col(HubEvent.id)))
        return [(row.type, json.loads(row.data)) for row in rows]


async def test_a_critical_outcome_pauses_at_the_first_one(hub: Rolling) -> None:
    await hub.craft("S1", "S2", "S3", assigned=OLD)
    hub.clock.move(seconds=10)
    gate = Gate(base_rate=0.49, pause_at=1e6, halt_at=1e6, critical=("trial_starts_used_up",))
    await hub.begin(1, NEW, gate=gate, waves=("2", "100%"))
    offered = [serial for serial, state in (await hub.states(1)).items() if state == "offered"]
    await hub.ends(offered[0], "rolled_back", "health_failed")
    await hub.tick()
    assert (await hub.rollout_row(1)).state == "running"
    await hub.ends(offered[1], "rolled_back", "trial_starts_used_up")
    await hub.tick()
    row = await hub.rollout_row(1)
    assert (row.state, row.code) == ("paused", "critical_outcome")
    assert hub.ids[offered[1]] in row.reason
    assert await hub.rules(1) == ["open_wave", "pause_critical"]
    assert [kind for kind, _ in await events(hub)] == [
        "rollout.started",
        "rollout.wave_opened",
        "rollout.device_failed",
        "rollout.device_failed",
        "rollout.paused",
    ]
    assert (await events(hub))[-1][1] == {
        "rollout": "ro-1",
        "release": NEW,
        "state": "paused",
        "wave": 1,
        "sentence": row.reason,
        "code": "critical_outcome",
    }


async def test_decisions_can_be_made_again_and_are_chained_to_the_audit_log(hub: Rolling) -> None:
    await hub.craft("S1", "S2", "S3", "S4", assigned=OLD)
    hub.clock.move(seconds=10)
    await hub.begin(1, NEW, waves=("2", "100%"))
    for serial, state in (await hub.states(1)).items():
        if state == "offered":
            await hub.says(serial, "INSTALLING")
    hub.clock.move(seconds=SILENT_AFTER_S + 1)
    await hub.tick(2)
    async with hub.database.reading() as session:
        kept = (await session.scalars(select(RolloutDecision).order_by(col(RolloutDecision.id)))).all()
        entries = await session.scalars(
            select(AuditEntry).where(col(AuditEntry.action) == "rollout.decide").order_by(col(AuditEntry.seq))
        )
        chained = [json.loads(entry.detail) for entry in entries]
    assert [row.rule for row in kept] == ["open_wave", "pause_critical"]
    for row, entry in zip(kept, chained, strict=True):
        facts = msgspec.json.decode(row.facts, type=Facts)
        assert decide(facts) == msgspec.json.decode(row.decision, type=Decision)
        assert facts.outcomes_through == row.outcomes_through
        digest = hashlib.sha256(f"{row.facts}\n{row.decision}".encode()).hexdigest()
        assert entry == {"rule": row.rule, "state": json.loads(row.decision)["state"], "sha256": digest}
    assert msgspec.json.decode(kept[-1].facts, type=Facts).critical.count == 2


async def test_failures_are_explained_by_the_control_where_it_goes_silent_as_well(hub: Rolling) -> None:
    await hub.craft(*(f"S{number}" for number in range(8)), assigned=OLD)
    await hub.begin(1, NEW, waves=("2", "100%"), gate=Gate(critical=()))
    hub.clock.move(seconds=2)
    await hub.polls(*(f"S{number}" for number in range(8)))
    hub.clock.move(seconds=SILENT_AFTER_S + 1)
    await hub.tick()
    assert await hub.counts(1) == {"silent": 2, "queued": 6}
    assert (await hub.rollout_row(1)).state == "running"
    async with hub.database.reading() as session:
        facts = await load_facts(session, await session.get_one(Rollout, 1), hub.clock.now())
    assert (facts.control.devices, facts.control.silent) == (6, 6)
    assert facts.critical.count == 0


async def test_what_comes_in_for_a_rollout_that_has_ended_is_counted(hub: Rolling) -> None:
    await hub.craft("S1", "S2", assigned=OLD)
    hub.clock.move(seconds=10)
    await hub.begin(1, NEW, gate=NEVER, quorum=0.0)
    await hub.ends("S1")
    hub.clock.move(seconds=SILENT_AFTER_S + 1)
    await hub.tick(2)
    assert (await hub.rollout_row(1)).state == "finished"
    await hub.says("S2", "TRIAL")
    hub.clock.move(seconds=15)
    await hub.tick()
    assert (await hub.rollout_row(1)).outcomes_through == await last_outcome(hub)
    hub.clock.move(seconds=SILENT_AFTER_S)
    await hub.tick()
    assert await hub.states(1) == {"S1": "committed", "S2": "lost"}
    await hub.check(1)
    assert (await hub.rollout_row(1)).state == "finished"


async def last_outcome(hub: Rolling) -> int:
    async with hub.database.reading() as session:
        return await mark_of(session)

"""Commands: which is possible when, for whom, what it changes, and that a second one changes nothing."""

import hashlib
import json
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.domain.access import PERMISSIONS, Permission, Principal
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound
from sdx_hub.domain.rollout.commands import COMMANDS, TABLE, Command
from sdx_hub.domain.rollout.facts import Accepted, Decision, Facts
from sdx_hub.domain.rollout.policy import Approval, Gate, Order, Soak
from sdx_hub.domain.rollout.states import ENDED, ROLLOUT_STATES
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.events import HubEvent
from sdx_hub.services.audit_log import verify_chain
from tests.unit.sdx_hub.services.conftest import ADMIN, APPROVER, OPERATOR, PUBLISHER, VIEWER, MovableClock
from tests.unit.sdx_hub.services.rollouts.commands import TWO, Commands
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S

OLD, NEW = "nav@1.0.0", "nav@2.0.0"
DONE_IN = {
    "pause": {"paused"},
    "resume": {"running"},
    "halt": {"halted"},
    "revert": {"reverting", "reverted"},
    "cancel": {"cancelled"},
}
NEVER = Gate(base_rate=0.49, pause_at=1e6, halt_at=1e6, critical=())
"""It stops at nothing that these few devices do."""


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Commands:
    hub = Commands(database, clock)
    await hub.signed(OLD, *TWO)
    await hub.signed(NEW, *TWO, back_to=100)
    return hub


async def rollout(hub: Commands, number: int, state: str, **fields: Any) -> int:
    """A rollout in a state, as the service and the engine leave it."""
    release = fields.pop("release", NEW)
    raw = (await hub.manifest(release)) if release else b""
    approval = Approval("signatures", hashlib.sha256(raw).hexdigest(), TWO)
    fields = {"signatures": msgspec.json.encode(approval).decode(), "wave": 1} | fields
    return await hub.rollout(number, release, state, **fields)


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_in_each_state(hub: Commands, command: Command) -> None:
    await hub.device("S1", OLD)
    for number, state in enumerate(ROLLOUT_STATES, 1):
        await rollout(hub, number, state)
        await hub.member(number, "S1", "failed" if command == "retry" else "queued")
        more = {"devices": ["S1"]} if command == "skip" else {}
        before = await hub.kept(number)
        if state in DONE_IN.get(command, ()):
            assert (await hub.give(command, number, **more)).state == state
            assert await hub.kept(number) == before
        elif command in TABLE[state]:
            assert (await hub.give(command, number, **more)).state == await hub.state(number)
            # The only wave is closed: that ends it.
            led = "finished" if command == "advance" else TABLE[state][command]
            row = await hub.rollout_row(number)
            assert (row.state, row.ended_at is not None) == (led, led in ENDED)
            assert [(each.actor, each.rule) for each in await hub.decisions(number)] == [("adam", command)]
        else:
            with pytest.raises(ConflictError) as refused:
                await hub.give(command, number, **more)
            assert refused.value.code == "rollout_state"
            assert refused.value.extra["possible"] == sorted(TABLE[state])
            assert await hub.kept(number) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("principal", [VIEWER, PUBLISHER, OPERATOR, APPROVER], ids=lambda each: each.role)
async def test_each_command_needs_its_permission(hub: Commands, command: Command, principal: Principal) -> None:
    await hub.device("S1", OLD)
    state = {"approve": "approval", "resume": "paused"}.get(command, "running")
    await rollout(hub, 1, state, created_by="otto")
    await hub.member(1, "S1", "failed" if command == "retry" else "queued")
    needed = Permission.APPROVE if command == "approve" else Permission.OPERATE_DEVICES
    more = {"devices": ["S1"]} if command == "skip" else {}
    before = await hub.kept(1)
    if needed in PERMISSIONS[principal.role]:
        await hub.give(command, 1, principal, **more)
        assert await hub.kept(1) != before
        return
    with pytest.raises(NotAllowed):
        await hub.give(command, 1, principal, **more)
    assert await hub.kept(1) == before


@pytest.mark.parametrize("name", ["ro-2", "ro-0", "1", "ro-1x", "ro-99999999999999999999", ""])
@pytest.mark.parametrize("command", ["pause", "advance", "retry", "approve"])
async def test_a_rollout_that_there_is_not(hub: Commands, command: str, name: str) -> None:
    await rollout(hub, 1, "running")
    more = {} if command == "retry" else {"reason": ""}
    with pytest.raises(NotFound) as refused:
        await getattr(hub.service, command)(ADMIN, name, **more)
    assert refused.value.code == "rollout_unknown"


async def test_a_command_is_kept_with_what_it_was_decided_on(hub: Commands) -> None:
    await hub.device("S1", OLD)
    await rollout(hub, 1, "running")
    await hub.member(1, "S1", "downloading")
    await hub.give("pause", 1, OPERATOR, reason="batteries are low")
    row, (kept,) = await hub.rollout_row(1), await hub.decisions(1)
    sentence = "olga paused it: batteries are low."
    assert (row.code, row.reason) == ("by_person", sentence)
    assert (kept.actor, kept.rule, kept.sentence) == ("olga", "pause", sentence)
    facts = msgspec.json.decode(kept.facts, type=Facts)
    assert [(tally.state, tally.devices) for tally in facts.tallies] == [("downloading", 1)]
    assert facts.state == "running"
    assert kept.outcomes_through == facts.outcomes_through == row.outcomes_through > 0
    decision = msgspec.json.decode(kept.decision, type=Decision)
    assert (decision.state, decision.code, decision.slots) == ("paused", "by_person", 0)
    async with hub.database.reading() as session:
        await verify_chain(session)
        entry = await session.scalar(select(AuditEntry).order_by(col(AuditEntry.seq).desc()).limit(1))
        event = await session.scalar(select(HubEvent))
    assert entry is not None and event is not None
    digest = hashlib.sha256(f"{kept.facts}\n{kept.decision}".encode()).hexdigest()
    assert (entry.actor, entry.action, entry.subject) == ("olga", "rollout.decide", "ro-1")
    assert json.loads(entry.detail) == {"rule": "pause", "state": "paused", "sha256": digest}
    told = {"rollout": "ro-1", "release": NEW, "state": "paused", "wave": 1, "sentence": sentence, "code": "by_person"}
    assert (event.type, event.subject, json.loads(event.data)) == ("rollout.paused", "ro-1", told)


@pytest.mark.parametrize("command", ["pause", "halt", "revert", "cancel", "resume"])
async def test_a_command_that_comes_again_is_done_already(hub: Commands, command: str) -> None:
    await rollout(hub, 1, "paused" if command == "resume" else "running")
    first = await hub.give(command, 1)
    before = await hub.kept(1)
    assert await hub.give(command, 1) == first
    assert await hub.kept(1) == before


async def test_a_reason_has_an_end(hub: Commands) -> None:
    await rollout(hub, 1, "running")
    with pytest.raises(BadInput) as refused:
        await hub.give("pause", 1, reason="x" * 2_001)
    assert refused.value.code == "invalid_reason"
    assert await hub.state(1) == "running"


async def test_a_start_of_what_two_people_signed_is_prepared_at_once(hub: Commands) -> None:
    started = await hub.start(NEW, query=" hardware=rpi4 ", urgent="fire", priority=7, notes="for the fair")
    assert (started.id, started.number, started.state) == ("ro-1", 1, "preparing")
    row = await hub.rollout_row(1)
    assert (row.release_id, row.product, row.wave, row.created_by) == (NEW, "nav", 0, "olga")
    assert (row.priority, row.urgent, row.approved_by) == (7, True, "")
    order = msgspec.json.decode(row.spec, type=Order)
    assert (order.query, order.soak, order.silent_after_s) == ("hardware=rpi4", Soak(600), 3_600)
    approval = msgspec.json.decode(row.signatures, type=Approval)
    assert (approval.kind, approval.signed_by) == ("signatures", TWO)
    assert await hub.events(1) == ["rollout.created"]
    (kept,) = await hub.decisions(1)
    assert (kept.actor, kept.rule) == ("olga", "create")
    assert kept.sentence == f"olga ordered {NEW}: for the fair."
    assert (await hub.start(OLD)).id == "ro-2"


@pytest.mark.parametrize("principal", [VIEWER, PUBLISHER, APPROVER], ids=lambda each: each.role)
async def test_a_start_needs_its_permission(hub: Commands, principal: Principal) -> None:
    with pytest.raises(NotAllowed):
        await hub.start(NEW, principal)


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"query": "hardware ="}, "query_invalid"),
        ({"query": "filter(gone)"}, "filter_unknown"),
        ({"waves": ("10%", "5%")}, "waves_invalid"),
        ({"waves": ("1", "filter(gone)", "100%")}, "filter_unknown"),
        ({"windows": ("Mon 25:00-26:00",)}, "window_invalid"),
        ({"gate": Gate(pause_at=20, halt_at=5)}, "gate_invalid"),
    ],
)
async def test_an_order_that_makes_no_sense_leaves_nothing(hub: Commands, order: dict[str, Any], code: str) -> None:
    with pytest.raises(BadInput) as refused:
        await hub.start(NEW, **order)
    assert refused.value.code == code
    assert (await hub.start(NEW)).id == "ro-1"


@pytest.mark.parametrize("state", ["waiting", "outdated", "yanked"])
async def test_a_release_that_is_not_published_is_not_rolled_out(hub: Commands, state: str) -> None:
    await hub.change_release(NEW, state=state)
    with pytest.raises(ConflictError) as refused:
        await hub.start(NEW)
    assert refused.value.code == "release_not_published"
    with pytest.raises(NotFound) as unknown:
        await hub.start("nav@9.9.9")
    assert unknown.value.code == "release_not_found"


async def test_the_same_devices_get_the_same_release_once(hub: Commands) -> None:
    first = await hub.start(NEW, query="hardware=rpi4 and tag=a")
    for state in ("preparing", "approval", "running", "paused"):
        await hub.set_state(1, state)
        with pytest.raises(ConflictError) as refused:
            await hub.start(NEW, query="hardware = rpi4   and tag = a", waves=("100%",))
        assert (refused.value.code, refused.value.extra) == ("rollout_exists", {"rollout": first.id})
    assert (await hub.start(NEW, query="tag=b")).id == "ro-2"
    assert (await hub.start(OLD, query="hardware=rpi4 and tag=a")).id == "ro-3"
    await hub.set_state(1, "cancelled")
    assert (await hub.start(NEW, query="hardware=rpi4 and tag=a")).id == "ro-4"


async def test_resuming_accepts_what_failed_so_far_and_nothing_more(hub: Commands) -> None:
    serials = [f"S{number:02}" for number in range(8)]
    await hub.craft(*serials, assigned=OLD)
    await hub.start(NEW, waves=("4", "100%"), stratify=(), soak=Soak(), quorum=0)
    await hub.tick(3)
    offered = [serial for serial, state in (await hub.states(1)).items() if state == "offered"]
    for serial in offered[:2]:
        await hub.ends(serial, "failed")
    await hub.tick()
    stopped = await hub.state(1)
    assert stopped in {"paused", "halted"}
    await hub.give("resume", 1, ADMIN, reason="a bad cable")
    assert msgspec.json.decode((await hub.rollout_row(1)).accepted, type=Accepted).bad == {1: 2}
    await hub.tick()
    assert await hub.state(1) == "running"
    for serial in offered[2:]:
        await hub.ends(serial, "failed")
    await hub.tick()
    assert await hub.state(1) == stopped


async def test_resuming_a_halted_rollout_offers_again_what_was_taken_back(hub: Commands) -> None:
    await hub.craft("S1", "S2", assigned=OLD)
    await hub.start(NEW, waves=("100%",))
    await hub.tick(3)
    await hub.give("halt", 1, OPERATOR)
    await hub.tick()
    assert await hub.counts(1) == {"withdrawn": 2}
    assert await hub.assigned("S1") == {"nav": OLD}
    await hub.give("resume", 1, APPROVER)
    assert set((await hub.members(1)).values()) == {("queued", "resumed")}
    await hub.tick()
    assert await hub.counts(1) == {"offered": 2}
    assert await hub.assigned("S1") == {"nav": NEW}
    for serial in ("S1", "S2"):
        await hub.ends(serial)
    await hub.tick()
    assert await hub.counts(1) == {"committed": 2}
    await hub.check(1)


async def test_who_committed_while_its_offer_was_taken_back_is_offered_it_again(hub: Commands) -> None:
    await hub.craft("S1", "S2", "S3", assigned=OLD)
    await hub.start(NEW, waves=("100%",))
    await hub.tick(3)
    action = await hub.current("S1")
    await hub.ends("S2")
    await hub.give("halt", 1)
    await hub.tick()
    await hub.ends("S1", action=action)
    assert await hub.states(1) == {"S1": "committed", "S2": "committed", "S3": "withdrawn"}
    assert await hub.assigned("S1") == {"nav": OLD}
    await hub.give("resume", 1, ADMIN)
    assert await hub.states(1) == {"S1": "queued", "S2": "committed", "S3": "queued"}
    accepted = msgspec.json.decode((await hub.rollout_row(1)).accepted, type=Accepted)
    assert accepted.good == {1: 1}
    await hub.tick()
    assert await hub.states(1) == {"S1": "offered", "S2": "committed", "S3": "offered"}
    assert await hub.assigned("S1") == {"nav": NEW}
    await hub.check(1)


async def test_a_paused_rollout_lets_go_on_what_is_under_way(hub: Commands) -> None:
    await hub.craft("S1", "S2", assigned=OLD)
    await hub.start(NEW, waves=("1", "100%"), soak=Soak())
    await hub.tick(3)
    await hub.give("pause", 1, OPERATOR)
    (serial,) = [serial for serial, state in (await hub.states(1)).items() if state == "offered"]
    await hub.ends(serial)
    await hub.tick(2)
    assert await hub.counts(1) == {"committed": 1, "queued": 1}
    await hub.give("resume", 1, OPERATOR)
    await hub.tick(2)
    assert await hub.counts(1) == {"committed": 1, "offered": 1}


async def test_a_wave_that_is_advanced_is_closed_and_the_next_one_opens(hub: Commands) -> None:
    await hub.craft("S1", "S2", "S3", assigned=OLD)
    await hub.start(NEW, waves=("1", "2", "100%"), stratify=())
    with pytest.raises(ConflictError) as early:
        await hub.set_state(1, "running")
        await hub.give("advance", 1)
    assert early.value.code == "no_wave_open"
    await hub.set_state(1, "preparing")
    await hub.tick(2)
    assert await hub.waves(1) == [(1, True, False), (2, False, False), (3, False, False)]
    await hub.give("advance", 1, OPERATOR, reason="seen it fly")
    assert await hub.waves(1) == [(1, True, True), (2, True, False), (3, False, False)]
    kept = (await hub.decisions(1))[-1]
    assert (kept.actor, kept.rule) == ("olga", "advance")
    assert kept.sentence.startswith("olga closed the wave: seen it fly. ")
    assert (await hub.events(1))[-2:] == ["rollout.wave_closed", "rollout.wave_opened"]
    await hub.tick()
    assert await hub.counts(1) == {"offered": 2, "queued": 1}


async def test_an_advance_does_not_overrule_the_gate(hub: Commands) -> None:
    serials = [f"S{number:02}" for number in range(6)]
    await hub.craft(*serials, assigned=OLD)
    await hub.start(NEW, waves=("4", "100%"), stratify=())
    await hub.tick(3)
    for serial in [serial for serial, state in (await hub.states(1)).items() if state == "offered"][:3]:
        await hub.ends(serial, "failed")
    done = await hub.give("advance", 1)
    assert done.state in {"paused", "halted"}
    assert (await hub.decisions(1))[-1].actor == "hub"
    assert await hub.waves(1) == [(1, True, False), (2, False, False)]


async def test_a_cancelled_rollout_takes_its_offers_back_and_leaves_what_is_committed(hub: Commands) -> None:
    await hub.craft("S1", "S2", assigned=OLD)
    await hub.start(NEW, waves=("100%",))
    await hub.tick(3)
    await hub.ends("S1")
    await hub.give("cancel", 1, OPERATOR)
    await hub.tick()
    hub.clock.move(seconds=60)
    await hub.tick()
    assert await hub.members(1) == {"S1": ("committed", ""), "S2": ("withdrawn", "rollout_cancelled")}
    assert await hub.assigned("S1") == {"nav": NEW}
    assert await hub.assigned("S2") == {"nav": OLD}
    await hub.check(1)


async def test_a_revert_brings_every_touched_device_back_and_says_who_cannot(hub: Commands) -> None:
    """One device in each state that a rollout leaves devices in."""
    await hub.craft(*"ABCDEFGHIJ", assigned=OLD)
    hub.clock.move(seconds=10)
    await hub.start(NEW, waves=("100%",), stratify=(), gate=NEVER)
    await hub.tick(3)
    assert await hub.counts(1) == {"offered": 10}
    for serial, result in (("A", "success"), ("B", "failed"), ("C", "rolled_back"), ("D", "refused")):
        await hub.ends(serial, result)  # type: ignore[arg-type]
    for serial, state in (("E", "DOWNLOADING"), ("F", "TRIAL"), ("G", "READY")):
        await hub.says(serial, state)
    hub.clock.move(seconds=SILENT_AFTER_S + 60)
    await hub.polls(*"EJ")
    await hub.tick()
    assert await hub.states(1) == {
        "A": "committed",
        "B": "failed",
        "C": "rolled_back",
        "D": "refused",
        "E": "downloading",
        "F": "lost",
        "G": "silent",
        "H": "off_duty",
        "I": "off_duty",
        "J": "offered",
    }
    await hub.pins.pin(OPERATOR, "I", "on loan")
    await hub.give("revert", 1, OPERATOR)
    await hub.tick()
    assert await hub.counts(1) == {"reverting": 10}
    for serial in "ABCDEFGHIJ":
        assert await hub.assigned(serial) == {"nav": OLD}
    for serial in "ABCDEFGI":
        await hub.ends(serial)
    await hub.ends("J", "failed", "disk_full")
    await hub.tick()
    assert await hub.state(1) == "reverting"
    hub.clock.move(seconds=SILENT_AFTER_S + 60)
    await hub.tick(2)
    assert await hub.members(1) == {
        **dict.fromkeys("ABCDEFGI", ("reverted", "")),
        "H": ("revert_failed", "silent"),
        "J": ("revert_failed", "disk_full"),
    }
    row = await hub.rollout_row(1)
    assert (row.state, row.code) == ("reverted", "all_back")
    assert "8 are back, 2 were given up" in row.reason
    assert (await hub.events(1))[-2:] == ["rollout.reverting", "rollout.reverted"]
    await hub.check(1)
    # Who comes late is back all the same.
    await hub.ends("H")
    assert (await hub.members(1))["H"] == ("reverted", "")


@pytest.mark.parametrize("leads_back", [False, True])
async def test_a_revert_after_a_step_that_must_be_passed_goes_as_far_back_as_the_step_lets_it(
    hub: Commands, leads_back: bool
) -> None:
    step = await hub.signed("nav@1.5.0", *TWO, back_to=100 if leads_back else None)
    await hub.change_release(step, must_pass=True)
    await hub.craft("S1", "S2", assigned=OLD)
    for serial in ("S1", "S2"):
        await hub.runs(serial, OLD)
    await hub.start(NEW, waves=("100%",), gate=NEVER)
    await hub.tick(3)
    assert await hub.assigned("S1") == {"nav": step}
    await hub.ends("S1")
    await hub.runs("S1", step)
    assert (await hub.members(1))["S1"] == ("queued", "must_pass_done")
    await hub.give("pause", 1)
    await hub.give("resume", 1)
    await hub.tick()
    assert await hub.assigned("S1") == {"nav": NEW}
    await hub.ends("S1", "failed")
    await hub.give("revert", 1)
    await hub.tick()
    assert await hub.assigned("S1") == {"nav": OLD if leads_back else step}
    assert await hub.assigned("S2") == {"nav": OLD}
    assert await hub.counts(1) == {"reverting": 2}
    await hub.check(1)


async def test_a_revert_finds_who_is_queued_again_after_an_offer(hub: Commands) -> None:
    await hub.craft("S1", "S2", "S3", assigned=OLD)
    await hub.start(NEW, waves=("100%",))
    await hub.tick(3)
    await hub.ends("S1", "failed")
    await hub.give("pause", 1)
    await hub.give("retry", 1, devices=["S1"])
    await hub.give("skip", 1, devices=["S2"])
    await hub.ends("S3", "failed")
    assert await hub.states(1) == {"S1": "queued", "S2": "skipped", "S3": "failed"}
    assert await hub.assigned("S1") == {"nav": NEW}
    await hub.give("revert", 1)
    await hub.tick()
    assert await hub.counts(1) == {"reverting": 3}
    assert await hub.assigned("S1") == {"nav": OLD}
    for serial in ("S1", "S2", "S3"):
        await hub.ends(serial)
    await hub.tick()
    assert await hub.state(1) == "reverted"
    await hub.check(1)

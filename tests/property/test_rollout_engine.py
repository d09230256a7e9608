"""The pure engine, walked at random: every command in every state, and whatever may become of a member.

Around `decide` and `commands.after` stands a fleet in memory, which does what the engine's services do with a database:
it offers to as many queued members of open waves as a decision says, takes offers back in batches, brings devices back.
Whatever happens in whatever order: no wave opens before the one before it is closed, nothing is offered but by a
running rollout, what has ended only goes back, no member is lost or counted twice, and every decision follows from its
JSON again.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sdx_hub.domain.errors import ConflictError
from sdx_hub.domain.rollout import counting
from sdx_hub.domain.rollout.accepting import accept, remaining
from sdx_hub.domain.rollout.commands import COMMANDS, TABLE, Command, after
from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Accepted, Control, Critical, Decision, Facts, Tally, WaveFacts
from sdx_hub.domain.rollout.policy import Gate, Limits, Order, Soak
from sdx_hub.domain.rollout.states import AFTER_SWITCH, BACK, BAD, ENDED, GOOD, IN_FLIGHT, MEMBER_STATES, OUT

BATCH = 2
"""So few members are taken back at once that it takes several ticks."""
OPEN = (*IN_FLIGHT, "off_duty", "silent")
WINDOWS: tuple[tuple[str, ...], ...] = ((), ("22:00-04:00 Asia/Tokyo",))
ORDERS = st.builds(
    Order,
    release=st.just("nav@2.0.0"),
    gate=st.builds(
        Gate,
        base_rate=st.sampled_from([0.02, 0.1]),
        pause_at=st.sampled_from([2.0, 5.0, 1e6]),
        halt_at=st.sampled_from([20.0, 1e6]),
        critical=st.sampled_from([(), ("lost_contact",)]),
    ),
    soak=st.builds(
        Soak, seconds=st.sampled_from([0, 600]), flights=st.sampled_from([0, 2]), hours=st.sampled_from([0.0, 1.0])
    ),
    quorum=st.sampled_from([0.0, 0.5, 1.0]),
    silent_after_s=st.just(3600),
    limits=st.builds(Limits, in_flight=st.sampled_from([0, 1, 3])),
    windows=st.sampled_from(WINDOWS),
    urgent=st.sampled_from(["", "It falls from the sky."]),
)
MEMBERS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=12)


class Member:
    """A device of the rollout, and whether it was ever offered something."""

    def __init__(self, wave: int, stratum: int) -> None:
        self.wave, self.stratum = wave, stratum
        self.state, self.code = "queued", ""
        self.touched = False

    def become(self, state: str, code: str = "") -> None:
        assert state in MEMBER_STATES
        self.state, self.code = state, code


class Rollout:
    """What the services keep of a rollout, and what they do in a tick."""

    def __init__(self, order: Order, members: list[Member], waves: int = 3) -> None:
        self.order, self.members = order, members
        self.state, self.wave = "running", 0
        self.release_state = "published"
        self.now = datetime(2026, 11, 25, 12, tzinfo=UTC)
        self.accepted = Accepted()
        self.control = Control()
        self.waves: list[dict[str, Any]] = [{"wave": number, "label": f"w{number}"} for number in range(1, waves + 1)]

    def among(self, *states: str) -> list[Member]:
        return [member for member in self.members if member.state in states]

    def facts(self) -> Facts:
        counts: dict[tuple[int, int, str], int] = {}
        for member in self.members:
            key = member.wave, member.stratum, member.state
            counts[key] = counts.get(key, 0) + 1
        critical = [member for member in self.among(*BAD) if member.code in self.order.gate.critical]
        return Facts(
            now=self.now,
            order=self.order,
            state=self.state,
            wave=self.wave,
            release_state=self.release_state,
            waves=tuple(WaveFacts(**wave, size=self.size(wave["wave"])) for wave in self.waves),
            strata={0: "quad", 1: "hexa"},
            tallies=tuple(Tally(*key, devices) for key, devices in sorted(counts.items())),
            accepted=self.accepted,
            critical=Critical(len(critical), "gs-7", "lost_contact") if critical else Critical(),
            control=self.control,
        )

    def size(self, wave: int) -> int:
        return sum(1 for member in self.members if member.wave == wave)

    def decided(self) -> Decision:
        """A decision, made once more of what the log would keep."""
        facts = self.facts()
        decision = decide(facts)
        kept = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
        assert decide(kept) == decision
        assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision
        return decision

    def tick(self) -> None:
        if self.state in {"halted", "cancelled"}:
            for member in self.among(*OPEN)[:BATCH]:
                member.become("withdrawn", f"rollout_{self.state}")
        if self.state == "reverting" and self.bring_back():
            return
        decision = self.decided()
        while (decision.state, decision.wave) != (self.state, self.wave):
            self.apply(decision)
            decision = self.decided()
        self.offer(decision)

    def bring_back(self) -> int:
        """Those that a revert has not come to yet; a few of them, however they ended."""
        away = [member for member in self.members if member.touched and member.state not in BACK][:BATCH]
        for member in away:
            member.become("reverted" if member.state in {"superseded", "queued"} else "reverting")
        return len(away)

    def apply(self, decision: Decision) -> None:
        assert self.state not in ENDED
        assert decision.code or decision.rule == "open_wave"
        if decision.wave != self.wave:
            self.open(decision)
        if decision.state != self.state:
            assert decision.state in {"running": ("paused", "halted", "finished"), "paused": ("halted",)}.get(
                self.state, ("reverted",)
            )
            if decision.state == "finished":
                self.waves[self.wave - 1].setdefault("closed_at", self.now)
        self.state, self.wave = decision.state, decision.wave

    def open(self, decision: Decision) -> None:
        assert decision.rule == "open_wave"
        assert self.state == decision.state == "running"
        assert decision.wave == self.wave + 1
        assert decision.reading.e_value < self.order.gate.pause_at
        if self.wave:
            closing = self.waves[self.wave - 1]
            if "closed_at" not in closing:
                self.require_over(self.wave)
            closing.setdefault("closed_at", self.now)
        self.waves[decision.wave - 1]["opened_at"] = self.now

    def require_over(self, wave: int) -> None:
        """What the rules say of a wave that closes by itself, said once more in other words."""
        members = [member for member in self.members if member.wave == wave]
        assert not [member for member in members if member.state in {"queued", *IN_FLIGHT}]
        committed = [member for member in members if member.state in GOOD]
        counted = [member for member in members if member.state not in {*OUT, "superseded"}]
        assert len(committed) >= self.order.quorum * len(counted) - 1e-9
        soak, state = self.order.soak or Soak(), self.waves[wave - 1]
        if "last_ended_at" in state:
            assert self.now >= state["last_ended_at"] + timedelta(seconds=soak.seconds)
        if committed:
            assert state.get("flights", 0) >= soak.flights
            assert state.get("running_s", 0) >= soak.hours * 3600

    def offer(self, decision: Decision) -> None:
        queued = [member for member in self.among("queued") if member.wave <= self.wave]
        if decision.slots != 0:
            assert self.state == "running"
            assert queued
            assert not decision.waits_for
        for member in queued[: decision.slots]:
            assert self.waves[member.wave - 1]["opened_at"]
            member.become("offered")
            member.touched = True
        if decision.slots and self.order.limits.in_flight:
            assert len(self.among(*IN_FLIGHT)) <= self.order.limits.in_flight

    def ended(self, member: Member, state: str, code: str = "") -> None:
        member.become(state, code)
        self.waves[member.wave - 1]["last_ended_at"] = self.now

    def command(self, command: Command) -> None:
        self.state = after(command, self.state)
        if command == "resume":
            self.accepted = accept(self.facts())
        if command == "advance" and self.wave:
            self.waves[self.wave - 1].setdefault("closed_at", self.now)
        if command == "retry":
            for member in self.among(*BAD, "withdrawn"):
                member.become("queued")
            self.accepted = remaining(self.facts())
        if command == "skip":
            for member in self.among("queued")[:1]:
                member.become("skipped")


class Engine(RuleBasedStateMachine):
    """Everything that can happen to a rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.rollout = Rollout(Order(release="nav@2.0.0"), [])
        self.last = ("", 0)

    @initialize(order=ORDERS, members=MEMBERS, state=st.sampled_from(["approval", "preparing", "running"]))
    def begin(self, order: Order, members: list[tuple[int, int]], state: str) -> None:
        self.rollout = Rollout(order, [Member(*member) for member in members])
        self.rollout.state = state
        self.last = (state, 0)

    def chosen(self, data: st.DataObject, *states: str) -> Member:
        return data.draw(st.sampled_from(self.rollout.among(*states)), label="member")

    def some(self, *states: str) -> bool:
        return bool(self.rollout.among(*states))

    @rule()
    def tick(self) -> None:
        before = self.rollout.state
        self.rollout.tick()
        if before in {"approval", "preparing", "halted", *ENDED}:
            assert self.rollout.state == before

    @precondition(lambda self: self.rollout.state == "preparing")
    @rule()
    def prepared(self) -> None:
        self.rollout.state = "running"

    @rule(hours=st.sampled_from([0.1, 1, 9]))
    def time_passes(self, hours: float) -> None:
        self.rollout.now += timedelta(hours=hours)

    @precondition(lambda self: self.some(*IN_FLIGHT))
    @rule(data=st.data(), state=st.sampled_from(IN_FLIGHT))
    def progress(self, data: st.DataObject, state: str) -> None:
        self.chosen(data, *IN_FLIGHT).become(state)

    @precondition(lambda self: self.some(*OPEN, "lost", "withdrawn"))
    @rule(data=st.data(), state=st.sampled_from(["committed", "committed", "failed", "rolled_back", "refused"]))
    def result(self, data: st.DataObject, state: str) -> None:
        """Also a late one: of a device that was given up, or whose offer was taken back."""
        self.rollout.ended(self.chosen(data, *OPEN, "lost", "withdrawn"), state)

    @precondition(lambda self: self.some(*IN_FLIGHT))
    @rule(data=st.data(), was_off=st.booleans())
    def is_not_heard(self, data: st.DataObject, was_off: bool) -> None:
        member = self.chosen(data, *IN_FLIGHT)
        if was_off:
            self.rollout.ended(member, "off_duty")
        elif member.state in AFTER_SWITCH:
            self.rollout.ended(member, "lost", "lost_contact")
        else:
            self.rollout.ended(member, "silent")

    @precondition(lambda self: self.some("silent", "lost", "off_duty"))
    @rule(data=st.data())
    def is_heard_again(self, data: st.DataObject) -> None:
        self.chosen(data, "silent", "lost", "off_duty").become("offered")

    @precondition(lambda self: self.some(*IN_FLIGHT))
    @rule(data=st.data())
    def is_assigned_otherwise(self, data: st.DataObject) -> None:
        self.rollout.ended(self.chosen(data, *IN_FLIGHT), "superseded")

    @precondition(lambda self: self.some("queued"))
    @rule(data=st.data())
    def is_pinned(self, data: st.DataObject) -> None:
        self.chosen(data, "queued").become("pinned")

    @precondition(lambda self: self.some("pinned", "skipped") and self.rollout.state not in ENDED)
    @rule(data=st.data())
    def is_unpinned(self, data: st.DataObject) -> None:
        self.chosen(data, "pinned", "skipped").become("queued")

    @precondition(lambda self: self.some("reverting"))
    @rule(data=st.data(), well=st.booleans())
    def is_back(self, data: st.DataObject, well: bool) -> None:
        self.chosen(data, "reverting").become("reverted" if well else "revert_failed")

    @precondition(lambda self: self.rollout.state == "running")
    @rule(stratum=st.integers(0, 1))
    def joins(self, stratum: int) -> None:
        self.rollout.members.append(Member(3, stratum))

    @precondition(lambda self: self.rollout.wave)
    @rule()
    def is_used(self) -> None:
        wave = self.rollout.waves[self.rollout.wave - 1]
        wave["flights"], wave["running_s"] = wave.get("flights", 0) + 1, wave.get("running_s", 0) + 1800

    @rule(silent=st.integers(0, 10))
    def control_is_seen(self, silent: int) -> None:
        self.rollout.control = Control(10, silent)

    @rule(state=st.sampled_from(["published", "published", "published", "yanked"]))
    def release_changes(self, state: str) -> None:
        self.rollout.release_state = state

    @rule(command=st.sampled_from(COMMANDS))
    def command(self, command: Command) -> None:
        before = self.rollout.facts()
        if command in TABLE[self.rollout.state]:
            self.rollout.command(command)
            return
        with pytest.raises(ConflictError):
            self.rollout.command(command)
        assert self.rollout.facts() == before

    @invariant()
    def what_has_ended_only_goes_back_and_waves_never_do(self) -> None:
        state, wave = self.last
        if state in ENDED:
            assert self.rollout.state == state or (state != "reverted" and self.rollout.state == "reverting")
        assert self.rollout.wave >= wave
        self.last = (self.rollout.state, self.rollout.wave)

    @invariant()
    def no_wave_is_open_before_the_one_before_is_closed(self) -> None:
        for wave in self.rollout.waves:
            is_open = "opened_at" in wave
            assert is_open == (wave["wave"] <= self.rollout.wave)
            if is_open and wave["wave"] < self.rollout.wave:
                assert "closed_at" in wave

    @invariant()
    def nobody_was_offered_anything_in_a_wave_that_is_not_open(self) -> None:
        assert all(member.wave <= self.rollout.wave for member in self.rollout.members if member.touched)

    @invariant()
    def every_member_is_counted_once(self) -> None:
        facts = self.rollout.facts()
        assert counting.count(facts, MEMBER_STATES) == len(self.rollout.members)
        reading = decide(facts).reading
        assert reading.good <= len(self.rollout.among(*GOOD))
        assert reading.bad <= len(self.rollout.among(*BAD))

    @invariant()
    def a_decision_that_was_applied_is_not_followed_by_another(self) -> None:
        facts = self.rollout.facts()
        decision = decide(facts)
        if decision.rule != "open_wave":
            settled = decide(msgspec.structs.replace(facts, state=decision.state, wave=decision.wave))
            assert settled.rule == "go_on"

    @invariant()
    def a_revert_ends_when_everybody_is_back(self) -> None:
        if self.rollout.state == "reverted":
            assert not self.rollout.among("reverting")


Engine.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestEngine = Engine.TestCase


@given(ORDERS, MEMBERS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_fleet_that_only_takes_it_well_always_finishes(
    order: Order, members: list[tuple[int, int]], chance: Any
) -> None:
    rollout = Rollout(order, [Member(*member) for member in members])
    for _ in range(400):
        rollout.tick()
        if rollout.state == "finished":
            break
        assert rollout.state == "running"
        for member in rollout.among(*IN_FLIGHT):
            if chance.random() < 0.5:
                rollout.ended(member, "committed")
        rollout.now += timedelta(minutes=chance.choice([1, 30, 300]))
        if rollout.wave:
            wave = rollout.waves[rollout.wave - 1]
            wave["flights"], wave["running_s"] = wave.get("flights", 0) + 1, wave.get("running_s", 0) + 600
    assert rollout.state == "finished"
    assert not rollout.among("queued", *IN_FLIGHT)


@given(ORDERS, MEMBERS)
@settings(max_examples=50, deadline=None)
def test_a_fleet_that_takes_nothing_well_is_stopped_in_its_first_wave(
    order: Order, members: list[tuple[int, int]]
) -> None:
    order = msgspec.structs.replace(order, gate=Gate(base_rate=0.02), windows=())
    rollout = Rollout(order, [Member(wave, 0) for wave, _ in members])
    for _ in range(20):
        rollout.tick()
        for member in rollout.among(*IN_FLIGHT):
            rollout.ended(member, "rolled_back")
    assert rollout.state in {"paused", "halted"}
    assert {member.wave for member in rollout.members if member.touched} == {min(wave for wave, _ in members)}

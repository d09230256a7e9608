"""The agent's table of states, walked at random.

Whatever happens in whatever order: an unknown event changes nothing, no slot that failed is ever current, floors never
shrink and are what the committed releases said, and an action that was switched has exactly one result.
"""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from device_agent.core import journal as journals
from device_agent.core import states
from device_agent.core.journal import Journal, advance
from device_agent.core.machine import TABLE, UnknownEvent
from device_agent.core.plan import Item, Plan, ReleaseRecord, Verified
from device_agent.core.states import (
    EVENTS,
    STATES,
    Accept,
    Activated,
    Break,
    Downloading,
    Failed,
    Filed,
    Healthy,
    Idle,
    Installing,
    Offer,
    Refuse,
    Reported,
    Restart,
    RolledBack,
    RollingBack,
    Signed,
    Staged,
    Switched,
    SwitchedBack,
    Trial,
    Watched,
    action_of,
    tag_of,
)
from firmware_schemas.device_api import InstalledComponent

NAMES = ("server", "params")


def other(slot: str) -> str:
    return "a" if slot == "b" else "b"


class Craft(RuleBasedStateMachine):
    """A journal, and the slots that its effects would switch."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal()
        self.actions = 0
        self.counter = 0
        self.current: dict[str, str] = {}
        self.content: dict[tuple[str, str], str] = {}
        self.floors: dict[str, int] = {}
        self.reviewed = 0
        self.results: dict[str, list[str]] = {}
        self.bad: set[str] = set()

    @property
    def state(self) -> Any:
        return self.journal.state

    def post(self, event: Any) -> None:
        """The event, through the journal's own bytes: what is not stored does not count."""
        plan = getattr(self.state, "plan", None)
        self.journal = journals.decode(journals.encode(advance(self.journal, event)))

        if isinstance(self.state, states.Committed) and plan is not None:
            self.reviewed = max(self.reviewed, plan.value.releases[0].floor)

    def plan(self, counter: int, digests: tuple[str, ...], back: int | None) -> Verified[Plan]:
        """What a verifier would make of a release; it refuses counters below the floor."""
        parts = tuple(
            InstalledComponent(name, "file", "app", f"{counter}.0", counter, digest * 64)
            for name, digest in zip(NAMES, digests, strict=True)
        )
        items = tuple(
            Item(part, 1, other(self.current.get(part.name, "b")), self.current.get(part.name, ""), part.name)
            for part in parts
            if self.content.get((part.name, self.current.get(part.name, ""))) != part.sha256
        )
        revert = None if back is None else min(back, counter)
        record = ReleaseRecord("app", f"{counter}.0", counter, revert_counter=revert)
        return Verified(Plan(action_of(self.state), items, parts, (record,), (), 0))

    @rule(
        kind=st.sampled_from(EVENTS),
        text=st.sampled_from(["x", "y"]),
        number=st.integers(0, 9),
    )
    def any_event(self, kind: type[Any], text: str, number: int) -> None:
        """Most events mean nothing in most states."""
        known = any(row.source is type(self.state) and row.event is kind for row in TABLE)
        if known:
            return
        event = kind(*[text if part is str else number for part in kind.__annotations__.values()])
        before = self.journal
        with pytest.raises(UnknownEvent):
            advance(self.journal, event)
        assert self.journal == before

    @precondition(lambda self: isinstance(self.state, Idle))
    @rule()
    def offer(self) -> None:
        self.actions += 1
        self.post(Offer(f"d.{self.actions}"))

    @precondition(lambda self: isinstance(self.state, Downloading))
    @rule(
        counter=st.integers(1, 5),
        digests=st.tuples(*[st.sampled_from("abc")] * 2),
        back=st.none() | st.integers(0, 5),
    )
    def accept(self, counter: int, digests: tuple[str, ...], back: int | None) -> None:
        if counter < self.floors.get("app", 0):
            self.post(Refuse("release_rollback", ""))
        else:
            self.post(Accept(self.plan(counter, digests, back)))

    @precondition(lambda self: isinstance(self.state, states.Offered))
    @rule()
    def begin(self) -> None:
        self.post(states.Begin())

    @precondition(lambda self: isinstance(self.state, states.VerifiedState))
    @rule()
    def arm(self) -> None:
        self.post(states.Arm())

    @precondition(lambda self: isinstance(self.state, states.Ready))
    @rule()
    def gate_opens(self) -> None:
        self.post(states.GateOpened())

    @precondition(lambda self: isinstance(self.state, Installing))
    @rule(works=st.booleans(), starts=st.integers(1, 3))
    def stage(self, works: bool, starts: int) -> None:
        plan = self.state.plan.value
        for item in plan.items:
            assert self.current.get(item.component.name) != item.slot, "only the inactive slot is written to"
            self.content[(item.component.name, item.slot)] = item.component.sha256 if works else "half"
        self.post(Staged(starts) if works else Break("install_failed", ""))

    @precondition(lambda self: isinstance(self.state, Switched))
    @rule(works=st.booleans())
    def switch(self, works: bool) -> None:
        for item in self.state.plan.value.items:
            self.current[item.component.name] = item.slot
        self.post(Activated("boot", 0) if works else Break("activation_failed", ""))

    @precondition(lambda self: isinstance(self.state, Trial))
    @rule(event=st.sampled_from([Watched("boot", 1, 1), Healthy(), Break("health_failed", "")]))
    def watch(self, event: Any) -> None:
        self.post(event)

    @precondition(lambda self: isinstance(self.state, RollingBack))
    @rule()
    def switch_back(self) -> None:
        for item in self.state.plan.value.items:
            if item.previous:
                self.current[item.component.name] = item.previous
            else:
                self.current.pop(item.component.name, None)
        self.post(SwitchedBack())

    @precondition(lambda self: isinstance(self.state, states.Committed | Failed | RolledBack))
    @rule()
    def sign(self) -> None:
        self.counter += 1
        kind = tag_of(type(self.state))
        self.results.setdefault(action_of(self.state), []).append(kind)
        self.post(Signed(self.counter, "{}"))

    @precondition(lambda self: isinstance(self.state, Reported))
    @rule()
    def file(self) -> None:
        self.post(Filed())

    @precondition(lambda self: isinstance(self.state, states.Offered | Downloading | states.Ready | Installing))
    @rule()
    def cancel(self) -> None:
        self.post(states.Cancel("changed its mind"))

    @rule(boot=st.sampled_from(["boot", "boot-2"]))
    def restart(self, boot: str) -> None:
        before = type(self.state)
        self.post(Restart(boot, 5))
        if before in {Switched, Trial}:
            assert type(self.state) in {before, RollingBack}, "a switched action never just disappears"

    @invariant()
    def floors_never_shrink(self) -> None:
        for product, floor in self.floors.items():
            assert self.journal.floors.get(product, 0) >= floor
        self.floors = dict(self.journal.floors)

    @invariant()
    def the_floor_is_the_largest_that_was_reviewed(self) -> None:
        assert self.journal.floors.get("app", 0) == self.reviewed

    @invariant()
    def what_is_current_is_whole(self) -> None:
        for name, slot in self.current.items():
            assert self.content[(name, slot)] != "half"

    @invariant()
    def outside_an_action_what_is_recorded_is_what_runs(self) -> None:
        if isinstance(self.state, Idle | Failed | Reported):
            for entry in self.journal.installed:
                name = entry.component.name
                assert self.content[(name, self.current[name])] == entry.component.sha256

    @invariant()
    def each_action_has_at_most_one_result(self) -> None:
        assert all(len(kinds) == 1 for kinds in self.results.values())


TestCraft = Craft.TestCase
TestCraft.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


def test_every_state_can_be_left_and_survives_a_restart() -> None:
    sources = {row.source for row in TABLE}
    assert sources == set(STATES)
    assert {row.source for row in TABLE if row.event is Restart} == set(STATES)


def test_every_row_is_unique_and_every_event_is_used() -> None:
    keys = [(row.source, row.event) for row in TABLE]
    assert len(keys) == len(set(keys))
    assert {row.event for row in TABLE} == set(EVENTS)


def test_after_the_switch_there_is_no_way_to_failed() -> None:
    """FAILED says that nothing which runs has changed: it must not be reachable from where something did."""
    changed = {Switched, Trial, RollingBack}
    assert not [row for row in TABLE if row.source in changed and Failed in row.targets]


def test_only_a_trial_or_nothing_to_do_leads_to_committed() -> None:
    into = {
        (row.source, row.event)
        for row in TABLE
        if states.Committed in row.targets and row.source is not states.Committed
    }
    assert into == {(Trial, Healthy), (states.VerifiedState, states.Arm)}

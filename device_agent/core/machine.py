"""Everything that affects the state of an update, in one table.

`step` is pure: it looks up (state, event), builds the next state and names the effects to perform. An unknown event
raises and changes nothing. Each state has at most one effect, performed when it is entered and again after a restart,
so every effect must be idempotent.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

from device_agent.core.states import (
    Accept,
    Activated,
    Arm,
    Begin,
    Break,
    Cancel,
    Committed,
    Downloading,
    Event,
    Failed,
    Filed,
    GateOpened,
    Healthy,
    Idle,
    Installing,
    Offer,
    Offered,
    Ready,
    Refuse,
    Reported,
    Restart,
    RolledBack,
    RollingBack,
    Signed,
    Staged,
    State,
    Switched,
    SwitchedBack,
    Trial,
    VerifiedState,
    Watched,
    action_of,
    tag_of,
)

MAX_STAGINGS = 5
"""Restarts in the middle of staging before the action fails: a payload that kills the agent must not do so forever."""


class Effect(StrEnum):
    """What a worker does in a state; idempotent."""

    CHECK = "check"
    FETCH = "fetch"
    ARM = "arm"
    ASK_GATE = "ask_gate"
    STAGE = "stage"
    SWITCH = "switch"
    WATCH = "watch"
    SWITCH_BACK = "switch_back"
    SIGN_RESULT = "sign_result"
    FILE_RESULT = "file_result"


class UnknownEvent(RuntimeError):
    """Misuse by the caller: this event has no meaning in this state."""


# -- the table -------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One transition: the state and event that it is for, where it may lead, and how the next state is built."""

    source: type[State]
    event: type[Any]
    targets: tuple[type[State], ...]
    build: Callable[[Any, Any], State]


DUTY: dict[type[State], Effect] = {
    Offered: Effect.CHECK,
    Downloading: Effect.FETCH,
    VerifiedState: Effect.ARM,
    Ready: Effect.ASK_GATE,
    Installing: Effect.STAGE,
    Switched: Effect.SWITCH,
    Trial: Effect.WATCH,
    RollingBack: Effect.SWITCH_BACK,
    Committed: Effect.SIGN_RESULT,
    Failed: Effect.SIGN_RESULT,
    RolledBack: Effect.SIGN_RESULT,
    Reported: Effect.FILE_RESULT,
}


def _refused(state: State, event: Refuse) -> Failed:
    return Failed(action_of(state), "refused", event.code, event.detail)


def _broken(state: State, event: Break) -> Failed:
    return Failed(action_of(state), "failed", event.code, event.detail)


def _cancelled(state: State, event: Cancel) -> Failed:
    return Failed(action_of(state), "cancelled", "cancelled", event.detail)


def _accepted(state: Downloading, event: Accept) -> State:
    if event.plan.value.action != state.action:
        raise UnknownEvent(f"A plan for {event.plan.value.action!r} does not belong to {state.action!r}.")
    return VerifiedState(event.plan)


def _armed(state: VerifiedState, _event: Arm) -> State:
    # Nothing differs from what runs: there is nothing to switch and nothing to try.
    return Ready(state.plan) if state.plan.value.items else Committed(state.plan.value.action)


def _staged_again(state: Installing, _event: Restart) -> State:
    if state.attempt >= MAX_STAGINGS:
        return Failed(
            action_of(state), "failed", "install_failed", f"Staging was interrupted {state.attempt} times in a row."
        )
    return Installing(state.plan, state.attempt + 1)


def _switched_again(state: Switched, _event: Restart) -> State:
    if state.starts_left < 1:
        return _starts_used_up(state)
    return Switched(state.plan, state.starts_left - 1)


def _tried_again(state: Trial, event: Restart) -> State:
    if state.starts_left < 1:
        return _starts_used_up(state)
    # The clock of an earlier boot says nothing here, and an earlier start of this boot may not have been watching.
    return Trial(state.plan, state.starts_left - 1, event.boot_id, event.now_s, state.watched_s)


def _starts_used_up(state: Switched | Trial) -> RollingBack:
    return RollingBack(
        state.plan, "trial_starts_used_up", "The device restarted more often than a trial allows: see its log."
    )


def _watched(state: Trial, event: Watched) -> State:
    return Trial(state.plan, state.starts_left, event.boot_id, event.since_s, event.watched_s)


def _rolling_back(state: Switched | Trial, event: Break) -> State:
    return RollingBack(state.plan, event.code, event.detail)


def _same(state: State, _event: object) -> State:
    return state


TABLE: tuple[Row, ...] = (
    Row(Idle, Offer, (Offered,), lambda _s, e: Offered(e.action)),
    Row(Idle, Restart, (Idle,), _same),
    # The poll is not signed, the instructions are: what they name counts.
    Row(Offered, Offer, (Offered,), lambda _s, e: Offered(e.action)),
    Row(Offered, Begin, (Downloading,), lambda s, _e: Downloading(s.action)),
    Row(Offered, Refuse, (Failed,), _refused),
    Row(Offered, Break, (Failed,), _broken),
    Row(Offered, Cancel, (Failed,), _cancelled),
    # Nothing has been touched up to READY, and instructions should be fresh: start over instead of resuming.
    Row(Offered, Restart, (Idle,), lambda _s, _e: Idle()),
    Row(Downloading, Accept, (VerifiedState,), _accepted),
    Row(Downloading, Refuse, (Failed,), _refused),
    Row(Downloading, Break, (Failed,), _broken),
    Row(Downloading, Cancel, (Failed,), _cancelled),
    Row(Downloading, Restart, (Idle,), lambda _s, _e: Idle()),
    Row(VerifiedState, Arm, (Ready, Committed), _armed),
    Row(VerifiedState, Refuse, (Failed,), _refused),
    Row(VerifiedState, Cancel, (Failed,), _cancelled),
    Row(VerifiedState, Restart, (Idle,), lambda _s, _e: Idle()),
    Row(Ready, GateOpened, (Installing,), lambda s, _e: Installing(s.plan)),
    Row(Ready, Refuse, (Failed,), _refused),
    Row(Ready, Cancel, (Failed,), _cancelled),
    Row(Ready, Restart, (Idle,), lambda _s, _e: Idle()),
    Row(Installing, Staged, (Switched,), lambda s, e: Switched(s.plan, e.starts)),
    Row(Installing, Break, (Failed,), _broken),
    Row(Installing, Refuse, (Failed,), _refused),
    Row(Installing, Cancel, (Failed,), _cancelled),
    Row(Installing, Restart, (Installing, Failed), _staged_again),
    Row(Switched, Activated, (Trial,), lambda s, e: Trial(s.plan, s.starts_left, e.boot_id, e.now_s)),
    Row(Switched, Break, (RollingBack,), _rolling_back),
    Row(Switched, Restart, (Switched, RollingBack), _switched_again),
    Row(Trial, Watched, (Trial,), _watched),
    Row(Trial, Healthy, (Committed,), lambda s, _e: Committed(action_of(s))),
    Row(Trial, Break, (RollingBack,), _rolling_back),
    Row(Trial, Restart, (Trial, RollingBack), _tried_again),
    Row(RollingBack, SwitchedBack, (RolledBack,), lambda s, _e: RolledBack(action_of(s), s.code, s.detail)),
    Row(RollingBack, Restart, (RollingBack,), _same),
    Row(Committed, Signed, (Reported,), lambda s, e: Reported(s.action, e.counter, e.envelope)),
    Row(Committed, Restart, (Committed,), _same),
    Row(Failed, Signed, (Reported,), lambda s, e: Reported(s.action, e.counter, e.envelope)),
    Row(Failed, Restart, (Failed,), _same),
    Row(RolledBack, Signed, (Reported,), lambda s, e: Reported(s.action, e.counter, e.envelope)),
    Row(RolledBack, Restart, (RolledBack,), _same),
    Row(Reported, Filed, (Idle,), lambda _s, _e: Idle()),
    Row(Reported, Restart, (Reported,), _same),
)
_BY_KEY = {(row.source, row.event): row for row in TABLE}


def effects_of(state: State) -> tuple[Effect, ...]:
    """What to perform in a state, on entering it and again after a restart."""
    duty = DUTY.get(type(state))
    return (duty,) if duty is not None else ()


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The next state and the effects to perform there, after `state` is made durable.

    Raises:
        UnknownEvent: The table has no such row; nothing changes.
    """
    row = _BY_KEY.get((type(state), type(event)))
    if row is None:
        raise UnknownEvent(f"{type(event).__name__} means nothing in {tag_of(type(state))}.")
    after = row.build(state, event)
    if type(after) not in row.targets:
        raise RuntimeError(f"The table does not let {row.source.__name__} lead to {type(after).__name__}.")
    return after, effects_of(after)


def diagram() -> str:
    """The table as a Mermaid state diagram: what docs/agent.md shows."""
    lines = ["stateDiagram-v2", "    [*] --> IDLE"]
    lines += [
        f"    {tag_of(row.source)} --> {tag_of(target)}: {row.event.__name__}"
        for row in TABLE
        for target in row.targets
    ]
    return "\n".join(lines)

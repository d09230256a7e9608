"""The states of an update, and the events that lead from one to another; the table is in `machine`.

States are frozen tagged structs that carry only what is legal there: an `Installing` holds a verified plan, a `Failed`
cannot.
"""

from typing import Any, Literal, NamedTuple

from msgspec import Struct

from device_agent.core.plan import Plan, Verified

# -- states ----------------------------------------------------------------------------------------------------------


class State(Struct, frozen=True, tag_field="state", forbid_unknown_fields=True):
    """Root of the states."""


class Idle(State, frozen=True, tag="IDLE"):
    pass


class Offered(State, frozen=True, tag="OFFERED"):
    action: str


class Downloading(State, frozen=True, tag="DOWNLOADING"):
    action: str


class VerifiedState(State, frozen=True, tag="VERIFIED"):
    plan: Verified[Plan]


class Ready(State, frozen=True, tag="READY"):
    plan: Verified[Plan]


class Installing(State, frozen=True, tag="INSTALLING"):
    plan: Verified[Plan]
    attempt: int = 1


class Switched(State, frozen=True, tag="SWITCHED"):
    plan: Verified[Plan]
    starts_left: int


class Trial(State, frozen=True, tag="TRIAL"):
    """The new version runs and is watched.

    Attributes:
        starts_left: Starts of the agent that the trial may still survive.
        boot_id, since_s: The boot in which the watch goes on, and its CLOCK_BOOTTIME when it began there.
        watched_s: Whole seconds watched in earlier starts.
    """

    plan: Verified[Plan]
    starts_left: int
    boot_id: str
    since_s: int
    watched_s: int = 0


class Committed(State, frozen=True, tag="COMMITTED"):
    action: str


class Failed(State, frozen=True, tag="FAILED"):
    """Ended before SWITCHED: nothing that runs has changed."""

    action: str
    result: Literal["failed", "refused", "cancelled"]
    code: str
    detail: str


class RollingBack(State, frozen=True, tag="ROLLING_BACK"):
    plan: Verified[Plan]
    code: str
    detail: str


class RolledBack(State, frozen=True, tag="ROLLED_BACK"):
    action: str
    code: str
    detail: str


class Reported(State, frozen=True, tag="REPORTED"):
    """The result is signed. It is kept byte for byte until it is filed, so that a repeated filing is a duplicate."""

    action: str
    counter: int
    envelope: str


AnyState = (
    Idle
    | Offered
    | Downloading
    | VerifiedState
    | Ready
    | Installing
    | Switched
    | Trial
    | Committed
    | Failed
    | RollingBack
    | RolledBack
    | Reported
)
STATES: tuple[type[State], ...] = AnyState.__args__

# -- events ----------------------------------------------------------------------------------------------------------


class Offer(NamedTuple):
    """The hub names an action that is not finished here."""

    action: str


class Begin(NamedTuple):
    """The metadata allow to fetch the payloads."""


class Accept(NamedTuple):
    """Everything is verified and at hand."""

    plan: Verified[Plan]


class Refuse(NamedTuple):
    """A trust rule or the lack of storage forbids the action."""

    code: str
    detail: str


class Arm(NamedTuple):
    """Bring a verified plan to the flight gate."""


class GateOpened(NamedTuple):
    """It is safe to install now."""


class Staged(NamedTuple):
    """Every inactive slot holds its new content, read back and verified, and the gate is open."""

    starts: int


class Activated(NamedTuple):
    """Every slot is switched, and the activation command succeeded."""

    boot_id: str
    now_s: int


class Watched(NamedTuple):
    """Healthy so far, and the trial is not over."""

    boot_id: str
    since_s: int
    watched_s: int


class Healthy(NamedTuple):
    """The trial is over and passed."""


class Break(NamedTuple):
    """An effect failed in a way that ends the action."""

    code: str
    detail: str


class Cancel(NamedTuple):
    """The hub wants something else."""

    detail: str


class Restart(NamedTuple):
    """The agent started, after a power cut or by itself."""

    boot_id: str
    now_s: int


class SwitchedBack(NamedTuple):
    """The old set is current again."""


class Signed(NamedTuple):
    """The final result is signed under its own counter."""

    counter: int
    envelope: str


class Filed(NamedTuple):
    """The signed result lies in the outbox, durably."""


Event = (
    Offer
    | Begin
    | Accept
    | Refuse
    | Arm
    | GateOpened
    | Staged
    | Activated
    | Watched
    | Healthy
    | Break
    | Cancel
    | Restart
    | SwitchedBack
    | Signed
    | Filed
)
EVENTS: tuple[type[Any], ...] = Event.__args__


def action_of(state: State) -> str:
    """The action that a state belongs to; empty in IDLE."""
    plan: Verified[Plan] | None = getattr(state, "plan", None)
    return plan.value.action if plan is not None else str(getattr(state, "action", ""))


def tag_of(state: type[State]) -> str:
    """The name of a state as the journal and the documentation write it."""
    return str(state.__struct_config__.tag)

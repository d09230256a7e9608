"""Take releases back: offers that are open when a rollout is halted, every touched device when it is reverted.

A device goes back to what it had before its offer, by a new desired state. A step takes a batch of members, in the
caller's transaction, and the same step again finds only those that are left: both kinds are in a partial index that
they leave by it. So a step costs what its batch costs, however many members there are.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import TextClause, and_, case, exists, func, literal, not_, or_, select, true
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import (
    AWAY_ROWS,
    OPEN_ROWS,
    DevicePin,
    Rollout,
    RolloutDevice,
)
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.rollouts.going_back.moving_back import OFFERED, Line, move_members
from sdx_hub.services.rollouts.going_back.way_back import BACK, PREVIOUS

BATCH: Final = 2_000

_ACCEPTED = col(Device.state) == "accepted"
_held: Any = func.coalesce(col(Assignment.release_id), "")
_IS_BACK = _held == func.coalesce(BACK, "")
_OURS = or_(_held == func.coalesce(col(RolloutDevice.offered), ""), _held == "")
"""Nobody assigned anything else since. A yank takes assignments away: then nothing is assigned, and it is ours yet."""
_COMMITTED = col(RolloutDevice.state) == "committed"
_QUEUED = col(RolloutDevice.state) == "queued"
_TOO_FAR = OFFERED.revert_counter > PREVIOUS.release_counter
_ENDED_WELL = func.coalesce(col(Action.state), "success") == "success"
_PINNED = exists().where(col(DevicePin.number) == col(Device.number))
_NO_WAY = case(
    (col(RolloutDevice.previous) != col(RolloutDevice.offered), "previous_not_published"), else_="nothing_before"
)
_NOW_VERSION: Final[Any] = col(Device.desired_version)
_NEXT_VERSION: Final[Any] = col(Device.desired_version) + 1
_DEVICE_IS: Final[Any] = literal("device_") + col(Device.state)
_REVERTED: Final = (
    Line(not_(_ACCEPTED), "revert_failed", _DEVICE_IS),
    Line(not_(or_(_OURS, _IS_BACK)), "reverted", "assigned_otherwise"),
    Line(and_(_COMMITTED, BACK.is_(None)), "revert_failed", _NO_WAY),
    # Its offer was taken back before: that way back is this one.
    Line(and_(_IS_BACK, col(Action.state) == "open"), "reverting", "", _NOW_VERSION),
    Line(and_(_IS_BACK, _ENDED_WELL, BACK.is_not(None)), "reverted", "is_back"),
    Line(and_(_COMMITTED, _TOO_FAR), "revert_failed", "revert_not_allowed"),
    Line(and_(_COMMITTED, _PINNED), "revert_failed", "device_pinned"),
    Line(and_(_IS_BACK, _ENDED_WELL), "reverted", "nothing_before"),
    Line(true(), "reverting", "", _NEXT_VERSION),
)
_Member: Any = aliased(RolloutDevice)


async def withdraw_step(uow: UnitOfWork, row: Rollout, now: datetime, batch: int = BATCH) -> int:
    """Take open offers back.

    Args:
        uow: The transaction. Who calls this lets the fleet's memory catch up after it.
        row: A rollout that is halted or cancelled; its state names the reason.
        now: UTC.
        batch: Members at most.

    Returns:
        How many members it came to; 0 when none is left.
    """
    lines = (
        Line(not_(_ACCEPTED), "withdrawn", _DEVICE_IS),
        Line(and_(not_(_OURS), not_(_IS_BACK)), "superseded", "assigned_otherwise"),
        *_taken_back("withdrawn", f"rollout_{row.state}"),
    )
    return await move_members(uow, row, now, batch_of(row, OPEN_ROWS, batch), lines)


async def skip_members(uow: UnitOfWork, row: Rollout, now: datetime, numbers: Sequence[int]) -> int:
    """Leave these members out, and take back the offers that are open; return how many those are."""
    lines = (
        Line(or_(_QUEUED, not_(_ACCEPTED), not_(_OURS)), "skipped", "by_person"),
        *_taken_back("skipped", "by_person"),
    )
    chosen = and_(col(_Member.rollout) == row.number, among(uow.session, col(_Member.number), numbers))
    return await move_members(
        uow, row, now, select(col(_Member.number)).where(chosen), lines, because="rollout_skipped"
    )


def _taken_back(state: str, code: str) -> tuple[Line, Line]:
    return Line(_IS_BACK, state, code), Line(true(), state, code, _NEXT_VERSION)


async def revert_step(uow: UnitOfWork, row: Rollout, now: datetime, batch: int = BATCH) -> int:
    """Bring devices back that the rollout touched, in whatever state they are.

    One that committed stays on what it runs where there is nothing to go back to, where its release does not let it,
    or where a person pinned it there: it is `revert_failed`, and says why.

    Args:
        uow: The transaction. Who calls this lets the fleet's memory catch up after it.
        row: A rollout that is `reverting`.
        now: UTC.
        batch: Members at most.

    Returns:
        How many members it came to; 0 when none is left.
    """
    return await move_members(uow, row, now, batch_of(row, AWAY_ROWS, batch), _REVERTED)


def batch_of(row: Rollout, rows: TextClause, size: int) -> Any:
    """Numbers of the next members in one of the partial indices."""
    return (
        select(col(_Member.number)).where(col(_Member.rollout) == row.number, rows).order_by(_Member.number).limit(size)
    )

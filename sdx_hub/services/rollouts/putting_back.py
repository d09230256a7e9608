"""Take releases back: offers that are open when a rollout is halted, every touched device when it is reverted.

A device goes back to what was assigned to it before its first offer, by a new desired state. A step takes a batch of
members, in the caller's transaction: outcomes are written first, and from them follows whose desired state changes; the
same step again finds only those that are left. Both kinds of members are found in a partial index that they leave by
it, so a step costs what its batch costs, however many members there are.

What becomes of a member is a table of lines: the first one that is true of it counts.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import TextClause, and_, case, delete, exists, func, insert, literal, not_, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.domain.rollout.states import OUT
from sdx_hub.persistence.number_lists import among, found_in
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import (
    AWAY_ROWS,
    OPEN_ROWS,
    DevicePin,
    Rollout,
    RolloutDevice,
    RolloutOutcome,
)
from sdx_hub.persistence.types import UtcDateTime
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.desired_state import CURRENT_ACTION, mark, open_actions
from sdx_hub.services.outcomes import log
from sdx_hub.services.outcomes.superseding import superseded
from sdx_hub.services.rollouts.known_bad import put_back_failed
from sdx_hub.services.rollouts.rollout_rows import ENGINE, order_of, rollout_id
from sdx_hub.services.rollouts.way_back import BACK, IS_PREVIOUS, PREVIOUS

BATCH: Final = 2_000
_UNCOUNTED: Final = ("queued", "superseded", *OUT)

_OFFERED: Any = aliased(Release)
_ACCEPTED = col(Device.state) == "accepted"
_held: Any = func.coalesce(col(Assignment.release_id), "")
_IS_BACK = _held == func.coalesce(BACK, "")
_OURS = or_(_held == func.coalesce(col(RolloutDevice.offered), ""), _held == "")
"""Nobody assigned anything else since. A yank takes assignments away: then nothing is assigned, and it is ours yet."""
_COMMITTED = col(RolloutDevice.state) == "committed"
_QUEUED = col(RolloutDevice.state) == "queued"
_TOO_FAR = _OFFERED.revert_counter > PREVIOUS.release_counter
_ENDED_WELL = func.coalesce(col(Action.state), "success") == "success"


class _Line(Struct, frozen=True):
    """What becomes of members of which `when` is true.

    Attributes:
        version: The `desired_version` that belongs to it: the next one where its desired state changes.
    """

    when: Any
    state: str
    code: Any = ""
    version: Any = None


_NOW_VERSION: Final[Any] = col(Device.desired_version)
_NEXT_VERSION: Final[Any] = col(Device.desired_version) + 1
_DEVICE_IS: Final[Any] = literal("device_") + col(Device.state)


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
        _Line(not_(_ACCEPTED), "withdrawn", _DEVICE_IS),
        _Line(and_(not_(_OURS), not_(_IS_BACK)), "superseded", "assigned_otherwise"),
        *_taken_back("withdrawn", f"rollout_{row.state}"),
    )
    return await _step(uow, row, now, batch_of(row, OPEN_ROWS, batch), lines)


async def skip_members(uow: UnitOfWork, row: Rollout, now: datetime, numbers: Sequence[int]) -> int:
    """Leave these members out, and take back the offers that are open; return how many those are."""
    lines = (
        _Line(or_(_QUEUED, not_(_ACCEPTED), not_(_OURS)), "skipped", "by_person"),
        *_taken_back("skipped", "by_person"),
    )
    chosen = and_(col(_Member.rollout) == row.number, among(uow.session, col(_Member.number), numbers))
    return await _step(uow, row, now, select(col(_Member.number)).where(chosen), lines, because="rollout_skipped")


def _taken_back(state: str, code: str) -> tuple[_Line, _Line]:
    return _Line(_IS_BACK, state, code), _Line(true(), state, code, _NEXT_VERSION)


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
    return await _step(uow, row, now, batch_of(row, AWAY_ROWS, batch), _reverted(row))


async def revert_uncounted(uow: UnitOfWork, row: Rollout, now: datetime) -> int:
    """Bring those back first whom no count tells from members that were never offered anything; return how many.

    A rollout is reverted when no member is counted any more that is not back. One that is queued may have been offered
    something, and left out after it, and nobody would see.
    """
    batch = batch_of(row, AWAY_ROWS, None).where(_Member.state.in_(_UNCOUNTED))
    return await _step(uow, row, now, batch, _reverted(row))


def _reverted(row: Rollout) -> tuple[_Line, ...]:
    pinned = exists().where(col(DevicePin.number) == col(Device.number))
    had = col(RolloutDevice.previous) != col(RolloutDevice.offered)
    no_way = case((had, "previous_not_published"), else_="nothing_before")
    return (
        _Line(not_(_ACCEPTED), "revert_failed", _DEVICE_IS),
        _Line(not_(or_(_OURS, _IS_BACK)), "reverted", "assigned_otherwise"),
        _Line(and_(_COMMITTED, BACK.is_(None)), "revert_failed", no_way),
        # Its offer was taken back before: that way back is this one.
        _Line(and_(_IS_BACK, col(Action.state) == "open"), "reverting", "", _NOW_VERSION),
        _Line(and_(_IS_BACK, _ENDED_WELL, BACK.is_not(None)), "reverted", "is_back"),
        _Line(and_(_COMMITTED, _TOO_FAR), "revert_failed", "revert_not_allowed"),
        _Line(and_(_COMMITTED, pinned), "revert_failed", "device_pinned"),
        _Line(and_(_IS_BACK, _ENDED_WELL), "reverted", "nothing_before"),
        _Line(true(), "reverting", "", _NEXT_VERSION),
    )


_Member: Any = aliased(RolloutDevice)


def batch_of(row: Rollout, rows: TextClause, size: int | None) -> Any:
    """Numbers of the next members in one of the partial indices."""
    return (
        select(col(_Member.number)).where(col(_Member.rollout) == row.number, rows).order_by(_Member.number).limit(size)
    )


async def _step(
    uow: UnitOfWork, row: Rollout, now: datetime, batch: Any, lines: tuple[_Line, ...], *, because: str = ""
) -> int:
    session = uow.session
    mark_before = await log.mark_of(session)
    state, code, version = (
        case(*((line.when, getattr(line, field)) for line in lines)) for field in ("state", "code", "version")
    )
    standing = (
        select(*log.entry(now, state, code, version=version))
        .select_from(RolloutDevice)
        .join(Device, col(Device.number) == col(RolloutDevice.number))
        .outerjoin(
            Assignment, and_(col(Assignment.device_id) == col(Device.id), col(Assignment.product) == row.product)
        )
        .outerjoin(Action, col(Action.id) == CURRENT_ACTION)
        .outerjoin(_OFFERED, _OFFERED.id == col(RolloutDevice.offered))
        .outerjoin(PREVIOUS, IS_PREVIOUS)
        .where(col(RolloutDevice.rollout) == row.number, found_in(session, col(RolloutDevice.number), batch))
    )
    count = await log.append(session, standing)
    if not count:
        return 0
    because = because or f"rollout_{row.state}"
    moved = await _move_devices(uow, row, mark_before, now, because)
    await log.fold(session, mark_before)
    await _follow(session, row, mark_before, now)
    await uow.audit(ENGINE, "rollout.put_back", rollout_id(row.number), because=because, members=count, devices=moved)
    return count


async def _move_devices(uow: UnitOfWork, row: Rollout, mark_before: int, now: datetime, because: str) -> int:
    """A new desired state for the devices whose outcome names their next version; return how many they are."""
    session = uow.session
    movers = (
        select(col(RolloutOutcome.number))
        .join(_Mover, _Mover.number == col(RolloutOutcome.number))
        .where(log.since(mark_before), col(RolloutOutcome.version) > _Mover.desired_version)
    )
    await _assign_previous(session, row, movers, now)
    seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
    count = await mark(session, seq, found_in(session, col(Device.number), movers), has_assignment=true())
    if count:
        why = f"{row.release_id} taken back by {rollout_id(row.number)}"
        await put_back_failed(session, seq, row.product, now)
        await _look_for_assignments(session, seq)
        await superseded(session, seq, now, because, row.number)
        await open_actions(session, seq, now, ended="superseded", code=because, why=why)
    return count


_Mover: Any = aliased(Device)


async def _look_for_assignments(session: AsyncSession, seq: int) -> None:
    await session.execute(
        update(Device)
        .where(col(Device.change_seq) == seq)
        .values(has_assignment=exists().where(col(Assignment.device_id) == col(Device.id)))
        .execution_options(synchronize_session=False)
    )


async def _assign_previous(session: AsyncSession, row: Rollout, movers: Any, now: datetime) -> None:
    chosen = found_in(session, col(Device.number), movers)
    holders = select(col(Device.id)).where(chosen)
    await session.execute(
        delete(Assignment)
        .where(col(Assignment.product) == row.product, found_in(session, col(Assignment.device_id), holders))
        .execution_options(synchronize_session=False)
    )
    assignment = {
        "device_id": col(Device.id),
        "product": literal(row.product),
        "release_id": BACK,
        "assigned_at": literal(now, UtcDateTime),
    }
    source = (
        select(*assignment.values())
        .select_from(Device)
        .join(RolloutDevice, col(RolloutDevice.number) == col(Device.number))
        .join(PREVIOUS, IS_PREVIOUS)
        .where(col(RolloutDevice.rollout) == row.number, chosen)
    )
    await session.execute(insert(Assignment).from_select(list(assignment), source))


async def _follow(session: AsyncSession, row: Rollout, mark_before: int, now: datetime) -> None:
    """Who is on the way back has as long to be heard of as with an offer; who has no action any more is back."""
    outcomes = log.since(mark_before), col(RolloutOutcome.state) == "reverting"
    numbers = select(col(RolloutOutcome.number)).where(*outcomes)
    turned = and_(col(RolloutDevice.rollout) == row.number, found_in(session, col(RolloutDevice.number), numbers))
    await session.execute(
        update(RolloutDevice)
        .where(turned)
        .values(check_at_s=int(now.timestamp()) + (order_of(row).silent_after_s or 0))
        .execution_options(synchronize_session=False)
    )
    without = (
        select(*log.entry(now, "reverted", "nothing_before"))
        .join(Device, col(Device.number) == col(RolloutDevice.number))
        .where(turned, not_(col(Device.has_assignment)))
    )
    await log.move(session, without)

"""Move members back by a table of what becomes of each, and their devices as it follows from that.

Outcomes are written first. They name the next `desired_version` of those devices whose desired state changes, so
everything else is found by them: assignments, actions, and the members' rows.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import and_, case, delete, exists, insert, literal, not_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.persistence.number_lists import found_in
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice, RolloutOutcome
from sdx_hub.persistence.types import UtcDateTime
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.desired_state import CURRENT_ACTION, mark, open_actions
from sdx_hub.services.outcomes import log
from sdx_hub.services.outcomes.superseding import superseded
from sdx_hub.services.rollouts.going_back.known_bad import put_back_failed
from sdx_hub.services.rollouts.going_back.way_back import BACK, IS_PREVIOUS, PREVIOUS
from sdx_hub.services.rollouts.records.rollout_rows import ENGINE, order_of, rollout_id

OFFERED: Final[Any] = aliased(Release)
"""What a member was offered last."""
_Mover: Any = aliased(Device)


class Line(Struct, frozen=True):
    """What becomes of members of which `when` is true.

    Attributes:
        when: An expression on a member, its `Device`, the `Assignment` of the rollout's product, the device's current
            `Action`, `OFFERED` and `PREVIOUS`; where there is none, its columns are NULL.
        version: The `desired_version` that belongs to it: the next one where its desired state changes.
    """

    when: Any
    state: str
    code: Any = ""
    version: Any = None


async def move_members(
    uow: UnitOfWork, row: Rollout, now: datetime, batch: Any, lines: Sequence[Line], *, because: str = ""
) -> int:
    """Move members and their devices.

    Args:
        uow: The transaction.
        row: Of the rollout.
        now: UTC.
        batch: Numbers of the members, as a query.
        lines: What becomes of a member; the first line that is true of it counts, and one has to be.
        because: Code of the actions that end by it; the rollout's state where nothing is said.

    Returns:
        How many members there were.
    """
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
        .outerjoin(OFFERED, OFFERED.id == col(RolloutDevice.offered))
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

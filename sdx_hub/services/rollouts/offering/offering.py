"""Offer a rollout's release to its next members: a new desired state for each, all in one go.

Whom it is offered to is a list of numbers, a batch at most; everything else is a fixed number of statements whose rows
never leave the database. That no device is offered anything twice is not left to them: at most one member of a device
can be under way, by a unique index.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, delete, insert, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.release import decode_manifest
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.persistence.number_lists import among, found_in
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice
from sdx_hub.persistence.types import UtcDateTime
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.desired_state import mark, open_actions
from sdx_hub.services.outcomes import log
from sdx_hub.services.outcomes.superseding import superseded
from sdx_hub.services.rollouts.going_back.known_bad import put_back_failed
from sdx_hub.services.rollouts.going_back.previous import last_good
from sdx_hub.services.rollouts.offering.must_pass import next_release
from sdx_hub.services.rollouts.offering.queueing import next_members
from sdx_hub.services.rollouts.offering.taking_over import take_over
from sdx_hub.services.rollouts.planning.eligibility import ELIGIBLE, eligibility
from sdx_hub.services.rollouts.records.rollout_rows import rollout_id

_PINNED: Final = "pinned"
_HAS_IT: Final = "has_it"
_member = RolloutDevice


async def offer(uow: UnitOfWork, row: Rollout, order: Order, now: datetime, count: int) -> int:
    """Offer the release to at most `count` queued members of the open waves.

    A member that cannot have it any more is `pinned` or `skipped`, and says why.

    Returns:
        How many members it came to. Where it is not 0, the fleet's memory has to catch up after the commit.
    """
    session = uow.session
    numbers = await next_members(session, row, order, count)
    if not numbers:
        return 0
    release = await session.get_one(Release, row.release_id)
    verdicts = await _verdicts(session, row, order, release, numbers)
    chosen = verdicts.pop(ELIGIBLE, ())
    await _leave_out(session, row, verdicts, now)
    if not chosen:
        return len(numbers)
    if row.urgent:
        await take_over(session, row, chosen, now)
    await _note_offer(session, row, release, chosen, int(now.timestamp()) + (order.silent_after_s or 0))
    seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
    await mark(session, seq, among(session, col(Device.number), chosen), has_assignment=true())
    await put_back_failed(session, seq, row.product, now)
    await _assign(session, row, seq, now)
    await superseded(session, seq, now)
    why = f"{row.release_id} offered by {rollout_id(row.number)}"
    await open_actions(session, seq, now, ended="superseded", code="", why=why)
    offered = select(*log.entry(now, "offered", version=col(Device.desired_version))).where(
        col(_member.rollout) == row.number,
        col(_member.number) == col(Device.number),
        col(Device.change_seq) == seq,
    )
    await log.move(session, offered)
    return len(numbers)


async def _verdicts(
    session: AsyncSession, row: Rollout, order: Order, release: Release, numbers: Sequence[int]
) -> dict[str, list[int]]:
    """What is to become of members, looked at again now that it is their turn: numbers by verdict."""
    manifest = decode_manifest(release.manifest)
    verdict = await eligibility(session, release, manifest, downgrade=bool(order.downgrade))
    # For one member at a time, so that PostgreSQL looks up what it needs of each and reads no table for all of them.
    of_member: Any = select(verdict).where(col(Device.number) == col(_member.number)).scalar_subquery()
    found = await session.execute(
        select(col(_member.number), col(_member.attempt), of_member).where(_ours(session, row, numbers))
    )
    verdicts: dict[str, list[int]] = defaultdict(list)
    for number, attempt, said in found:
        # It has it from an earlier attempt, and is to try again.
        verdicts[ELIGIBLE if said == _HAS_IT and attempt else said].append(number)
    return verdicts


async def _leave_out(session: AsyncSession, row: Rollout, verdicts: dict[str, list[int]], now: datetime) -> None:
    for code, numbers in verdicts.items():
        state = "pinned" if code == _PINNED else "skipped"
        await log.move(session, select(*log.entry(now, state, code)).where(_ours(session, row, numbers)))


async def _note_offer(
    session: AsyncSession, row: Rollout, release: Release, chosen: Sequence[int], check_at_s: int
) -> None:
    """Remember on members what they are offered, and what they go back to."""
    step = await next_release(session, release)
    offered: Any = select(step).where(col(Device.number) == col(_member.number)).scalar_subquery()
    await session.execute(
        update(_member)
        .where(_ours(session, row, chosen))
        .values(
            previous=last_good(row.product),
            offered=offered,
            attempt=col(_member.attempt) + 1,
            is_control=False,
            check_at_s=check_at_s,
        )
        .execution_options(synchronize_session=False)
    )


async def _assign(session: AsyncSession, row: Rollout, seq: int, now: datetime) -> None:
    marked = col(Device.change_seq) == seq
    await session.execute(
        delete(Assignment)
        .where(
            col(Assignment.product) == row.product,
            found_in(session, col(Assignment.device_id), select(col(Device.id)).where(marked)),
        )
        .execution_options(synchronize_session=False)
    )
    assignment = {
        "device_id": col(Device.id),
        "product": literal(row.product),
        "release_id": col(_member.offered),
        "assigned_at": literal(now, UtcDateTime),
    }
    source = select(*assignment.values()).where(
        marked, col(_member.rollout) == row.number, col(_member.number) == col(Device.number)
    )
    await session.execute(insert(Assignment).from_select(list(assignment), source))


def _ours(session: AsyncSession, row: Rollout, numbers: Sequence[int]) -> Any:
    return and_(col(_member.rollout) == row.number, among(session, col(_member.number), numbers))

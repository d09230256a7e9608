"""The urgent lane: take devices from offers of other rollouts that they have not switched to yet."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, insert, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.rollout.states import IN_FLIGHT
from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice
from sdx_hub.persistence.types import UtcDateTime
from sdx_hub.services.outcomes import log

_member = RolloutDevice


async def take_over(session: AsyncSession, row: Rollout, numbers: Sequence[int], now: datetime) -> int:
    """Put these devices' offers of other rollouts back into their queues; return how many those are.

    What was assigned before those offers is assigned again: it is part of the desired state that comes next.
    """
    theirs = (
        among(session, col(_member.number), numbers),
        col(_member.state).in_(IN_FLIGHT),
        col(_member.rollout) != row.number,
    )
    offered = (
        select(col(Device.id), col(Rollout.product), col(_member.offered))
        .select_from(_member)
        .join(Device, col(Device.number) == col(_member.number))
        .join(Rollout, col(Rollout.number) == col(_member.rollout))
        .where(*theirs)
    )
    key = tuple_(col(Assignment.device_id), col(Assignment.product), col(Assignment.release_id))
    await session.execute(delete(Assignment).where(key.in_(offered)).execution_options(synchronize_session=False))
    assignment = {
        "device_id": col(Device.id),
        "product": col(Rollout.product),
        "release_id": col(Release.id),
        "assigned_at": literal(now, UtcDateTime),
    }
    before = (
        select(*assignment.values())
        .select_from(_member)
        .join(Device, col(Device.number) == col(_member.number))
        .join(Rollout, col(Rollout.number) == col(_member.rollout))
        .join(Release, (col(Release.id) == col(_member.previous)) & (col(Release.state) == "published"))
        .where(*theirs)
    )
    await session.execute(insert(Assignment).from_select(list(assignment), before))
    return await log.move(session, select(*log.entry(now, "queued", "urgent_lane")).where(*theirs))

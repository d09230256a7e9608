"""Open offers whose device got another desired state from somebody else."""

from datetime import datetime
from typing import Final

from sqlalchemy import and_, exists, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.rollout.states import IN_FLIGHT
from sdx_hub.persistence.number_lists import found_in
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import TOUCHED_ROWS, Rollout, RolloutDevice
from sdx_hub.services.outcomes import log
from sdx_hub.services.outcomes.carrying import carry_over

NO_ROLLOUT: Final = 0
_member = RolloutDevice


async def superseded(
    session: AsyncSession, seq: int, now: datetime, code: str = "assigned_otherwise", rollout: int = NO_ROLLOUT
) -> int:
    """Note whom an offer, or a way back, was taken from; others go on under the new action. Return how many those are.

    Args:
        session: Of the unit of work, with the assignments as they shall be.
        seq: What the devices are marked with, each of them once.
        now: UTC.
        code: Why.
        rollout: The one that is the reason, if one is: it sees after its members itself.
    """
    assigned = and_(col(Assignment.device_id) == col(Device.id), col(Assignment.product) == col(Rollout.product))
    still_offered = exists().where(assigned, col(Assignment.release_id) == col(_member.offered))
    still_back = or_(
        exists().where(assigned, col(Assignment.release_id) == col(_member.previous)),
        and_(col(_member.previous).is_(None), not_(exists().where(assigned))),
    )
    lost = or_(
        and_(col(_member.state).in_((*IN_FLIGHT, "off_duty")), not_(still_offered)),
        and_(col(_member.state) == "reverting", not_(still_back)),
    )
    marked = select(col(Device.number)).where(col(Device.change_seq) == seq)
    moved = (
        select(*log.entry(now, "superseded", code))
        .join(Device, col(Device.number) == col(_member.number))
        .join(Rollout, col(Rollout.number) == col(_member.rollout))
        .where(found_in(session, col(_member.number), marked), TOUCHED_ROWS, lost, col(_member.rollout) != rollout)
    )
    count = await log.move(session, moved)
    await carry_over(session, seq, rollout)
    return count

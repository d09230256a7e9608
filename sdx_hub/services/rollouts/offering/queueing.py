"""Whose turn it is: the first queued members of the open waves that nothing stands in the way of."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.states import AFTER_SWITCH
from sdx_hub.persistence.tables.rollouts import IN_FLIGHT_ROWS, QUEUED_ROWS, Rollout, RolloutDevice

LOOK: Final = 20_000
"""Queued members that are looked at: those behind them wait until some of these have had their turn."""
_Other: Any = aliased(RolloutDevice)
_OtherRollout: Any = aliased(Rollout)


async def next_members(session: AsyncSession, row: Rollout, order: Order, count: int) -> Sequence[int]:
    """Numbers of at most `count` queued members, in their order.

    One that is under way in another rollout waits for that; the urgent lane does not, unless it has switched already or
    that one is urgent as well. Of a site come as many as its limit leaves room for.
    """
    member = RolloutDevice
    # A look-up for each, and no join: see `number_lists`.
    under_way_elsewhere = select(_Other.number).where(_Other.number == col(member.number), IN_FLIGHT_ROWS)
    if row.urgent:
        urgent = exists().where(_OtherRollout.number == _Other.rollout, _OtherRollout.urgent)
        under_way_elsewhere = under_way_elsewhere.where(or_(_Other.state.in_(AFTER_SWITCH), urgent))
    is_free = under_way_elsewhere.limit(1).scalar_subquery().is_(None)
    free = (
        select(col(member.number), col(member.site), col(member.wave), col(member.position))
        .where(col(member.rollout) == row.number, col(member.wave) <= row.wave, QUEUED_ROWS, is_free)
        .order_by(col(member.wave), col(member.position))
    )
    if not order.limits.site_in_flight:
        return (await session.scalars(free.limit(count))).all()
    queue = free.limit(LOOK).subquery("queue")
    nth = func.row_number().over(partition_by=queue.c.site, order_by=(queue.c.wave, queue.c.position))
    ranked = select(queue, nth.label("nth")).subquery("ranked")
    under_way = (
        select(col(member.site), func.count().label("devices"))
        .where(col(member.rollout) == row.number, IN_FLIGHT_ROWS)
        .group_by(col(member.site))
        .subquery("under_way")
    )
    room = order.limits.site_in_flight - func.coalesce(under_way.c.devices, 0)
    chosen = (
        select(ranked.c.number)
        .outerjoin(under_way, under_way.c.site == ranked.c.site)
        .where(or_(ranked.c.site == "", ranked.c.nth <= room))
        .order_by(ranked.c.wave, ranked.c.position)
        .limit(count)
    )
    return (await session.scalars(chosen)).all()

"""Who has not been heard of since an offer: told apart by whether the device knows of the offer at all.

`check_at_s` of a member is when it will have been missed: `silent_after_s` after its offer, or after it was last heard.
Only members whose time has come are looked at.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.states import AFTER_SWITCH, IN_FLIGHT
from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.tables.devices import Device, DeviceSeen
from sdx_hub.persistence.tables.rollouts import IN_FLIGHT_ROWS, WATCHED_ROWS, Rollout, RolloutDevice
from sdx_hub.services.outcomes import log

_member = RolloutDevice
_Other: Any = aliased(RolloutDevice)


async def listen(session: AsyncSession, row: Rollout, order: Order, now: datetime, batch: int) -> int:
    """Look at the members whose time has come, at most `batch`; return how many they are."""
    now_s, silent_s = int(now.timestamp()), order.silent_after_s or 0
    due = (
        select(col(_member.number))
        .where(col(_member.rollout) == row.number, WATCHED_ROWS, col(_member.check_at_s) <= now_s)
        .order_by(col(_member.check_at_s))
        .limit(batch)
    )
    numbers = (await session.scalars(due)).all()
    if not numbers:
        return 0
    chosen = and_(col(_member.rollout) == row.number, among(session, col(_member.number), numbers))
    heard = func.coalesce(col(DeviceSeen.last_seen_s), 0)
    lines = _lines(heard, col(_member.check_at_s) - silent_s, now_s - silent_s)
    became = case(*((when, state) for when, state, _ in lines))
    code = case(*((when, code) for when, _, code in lines))
    moved = (
        select(*log.entry(now, became, code))
        .join(Device, col(Device.number) == col(_member.number))
        .outerjoin(DeviceSeen, col(DeviceSeen.number) == col(_member.number))
        .where(chosen, became.is_not(None))
    )
    await log.move(session, moved)
    last_heard = select(col(DeviceSeen.last_seen_s)).where(col(DeviceSeen.number) == col(_member.number))
    again = case(
        (col(_member.state) == "off_duty", now_s),
        else_=func.coalesce(last_heard.scalar_subquery(), col(_member.check_at_s) - silent_s),
    )
    await session.execute(
        update(_member)
        .where(chosen, WATCHED_ROWS)
        .values(check_at_s=again + silent_s)
        .execution_options(synchronize_session=False)
    )
    return len(numbers)


def _lines(heard: Any, since: Any, long_ago_s: int) -> tuple[tuple[Any, str | None, str], ...]:
    """What becomes of a member whose time has come, with its code: the first line that is true of it counts.

    Args:
        heard: When it last polled.
        since: When the time began that it was to be heard in: with the offer, or when it was last heard.
        long_ago_s: Who was not heard since then is missed.
    """
    state = col(_member.state)
    heard_since = heard >= since
    elsewhere = exists().where(
        _Other.number == col(_member.number), IN_FLIGHT_ROWS, _Other.rollout != col(_member.rollout)
    )
    may_return = and_(col(Device.desired_version) == col(_member.offer_version), ~elsewhere)
    return (
        (and_(state == "off_duty", heard_since, may_return), "offered", "heard_again"),
        (state == "off_duty", None, ""),
        (and_(heard_since, heard > long_ago_s), None, ""),
        # It has said nothing of the offer and has not polled since: it is off, and does not know of it.
        (and_(state == "offered", ~heard_since), "off_duty", "off_duty"),
        (state.in_(AFTER_SWITCH), "lost", "lost_contact"),
        (state.in_(IN_FLIGHT), "silent", "silent"),
        (state == "reverting", "revert_failed", "silent"),
    )

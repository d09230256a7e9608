"""Who is in a rollout, and which rollouts a device is in, with what holds it there."""

from datetime import datetime

from sqlalchemy import Select, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.rollout.left_out import NO_MATCH
from sdx_hub.domain.rollout.standing import DeviceRollouts, Hold, Member, Membership, Pin
from sdx_hub.domain.rollout.states import ENDED, MEMBER_STATES
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.deadlines import deadline
from sdx_hub.persistence.tables.rollouts import IN_FLIGHT_ROWS, TOUCHED_ROWS, DevicePin, Rollout, RolloutDevice
from sdx_hub.services.devices.device_rows import find_device
from sdx_hub.services.devices.previewing import QUERY_DEADLINE_S
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor
from sdx_hub.services.rollouts.records.rollout_rows import find_rollout, order_of, rollout_id
from sdx_hub.services.rollouts.showing.outsiders import left_out
from sdx_hub.services.rollouts.showing.standings import members, standing_now

_GO_ON = ("running", "paused", "halted")
MOST = 20
"""Rollouts that are shown of a device, beside those that go on."""


class MembershipService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(
        self,
        principal: Principal,
        rollout: str,
        *,
        state: str | None,
        wave: int | None,
        cursor: str | None,
        limit: int,
    ) -> Page[Member]:
        """Members of a rollout, in the order in which they enrolled.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such rollout (code `rollout_unknown`).
            BadInput: The state or the cursor is none (codes `invalid_state`, `invalid_cursor`).
            Unavailable: It took too long (code `query_timeout`).
        """
        principal.require(Permission.READ)
        if state is not None and state not in MEMBER_STATES:
            raise BadInput(f"A member is {', '.join(MEMBER_STATES)}; not {state[:40]!r}.", "invalid_state")
        async with self._database.reading() as session, deadline(session, QUERY_DEADLINE_S):
            number = (await find_rollout(session, rollout)).number
            query = (
                select(RolloutDevice)
                .where(col(RolloutDevice.rollout) == number)
                .order_by(col(RolloutDevice.number))
                .limit(limit + 1)
            )
            if state is not None:
                query = query.where(col(RolloutDevice.state) == state)
            if wave is not None:
                query = query.where(col(RolloutDevice.wave) == wave)
            if cursor:
                query = query.where(col(RolloutDevice.number) > decode_cursor(cursor, int))
            rows, more = cut((await session.scalars(query)).all(), limit)
            found = await members(session, number, rows)
        return Page(found, encode_cursor(rows[-1].number) if more else None)

    async def of_device(self, principal: Principal, name: str) -> DeviceRollouts:
        """A device's places in rollouts, the newest first.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such device (code `device_unknown`).
        """
        principal.require(Permission.READ)
        now = self._clock.now()
        async with self._database.reading() as session:
            number = (await find_device(session, name)).number
            pin = await session.get(DevicePin, number)
            rows = await session.scalars(_places(number))
            found = [await membership(session, row, now) for row in rows]
            others = [await left_out(session, row, number, now) for row in await session.scalars(_without(number))]
        return DeviceRollouts(
            Pin(pin.reason, pin.pinned_by, pin.pinned_at) if pin else None,
            tuple(found),
            tuple(each for each in others if each.code != NO_MATCH),
        )


async def membership(session: AsyncSession, row: RolloutDevice, now: datetime) -> Membership:
    """A device's place in a rollout, with what holds it there."""
    rollout = await session.get_one(Rollout, row.rollout)
    return Membership(
        rollout=await standing_now(session, rollout, now),
        member=(await members(session, row.rollout, [row]))[0],
        hold=await _hold(session, rollout, row),
    )


def _places(number: int) -> Select[RolloutDevice]:
    """Two index look-ups: where it was offered something, and its rows in rollouts that go on."""
    mine = col(RolloutDevice.number) == number
    going_on = select(col(Rollout.number)).where(col(Rollout.state).not_in(ENDED))
    touched = select(col(RolloutDevice.rollout)).where(mine, TOUCHED_ROWS).order_by(col(RolloutDevice.rollout).desc())
    return (
        select(RolloutDevice)
        .where(mine, or_(col(RolloutDevice.rollout).in_(going_on), col(RolloutDevice.rollout).in_(touched.limit(MOST))))
        .order_by(col(RolloutDevice.rollout).desc())
    )


def _without(number: int) -> Select[Rollout]:
    """Rollouts that go on and have members, of whom the device is none."""
    member = exists().where(col(RolloutDevice.rollout) == col(Rollout.number), col(RolloutDevice.number) == number)
    return (
        select(Rollout).where(col(Rollout.state).in_(_GO_ON), ~member).order_by(col(Rollout.number).desc()).limit(MOST)
    )


async def _hold(session: AsyncSession, rollout: Rollout, row: RolloutDevice) -> Hold | None:
    """What keeps a queued member of an open wave from its offer, beside the rollout itself."""
    if row.state != "queued" or row.wave > rollout.wave:
        return None
    elsewhere = select(col(RolloutDevice.rollout)).where(col(RolloutDevice.number) == row.number, IN_FLIGHT_ROWS)
    other = await session.scalar(elsewhere)
    if other is not None:
        return Hold("other_rollout", rollout_id(other))
    limits = order_of(rollout).limits
    if limits.site_in_flight and row.site:
        at_site = col(RolloutDevice.site) == row.site
        under_way = select(func.count()).where(col(RolloutDevice.rollout) == rollout.number, at_site, IN_FLIGHT_ROWS)
        devices = await session.scalar(under_way) or 0
        if devices >= limits.site_in_flight:
            return Hold("site_limit", row.site, devices)
    return None

"""What people command for single members of a rollout: try again, leave out. Any number of them by a few statements."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.errors import ConflictError
from sdx_hub.domain.rollout.states import BAD, IN_FLIGHT
from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import AWAY_ROWS, BAD_ROWS, Rollout, RolloutDevice
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.devices.device_rows import find_device
from sdx_hub.services.outcomes import log
from sdx_hub.services.rollouts.going_back.putting_back import skip_members
from sdx_hub.services.rollouts.records.rollout_rows import rollout_id

RETRIED: Final = (*BAD, "superseded", "withdrawn", "skipped")
SKIPPED: Final = ("queued", *IN_FLIGHT, "off_duty")
_AGAIN: Final = ("queued", *IN_FLIGHT)
"""Nothing is left to do for a retry that comes again."""
_NAMES: Final = 500
_NAMED_IN_REFUSALS: Final = 5


class Named(msgspec.Struct, frozen=True):
    """A device that a person named, and the state of its member."""

    device: str
    state: str


async def named(session: AsyncSession, row: Rollout, names: Sequence[str]) -> dict[int, Named]:
    """Members by id or serial: number to what it is.

    Raises:
        NotFound: There is no such device (code `device_unknown`).
        ConflictError: It is no member (code `not_a_member`).
    """
    devices: dict[int, str] = {}
    for start in range(0, len(names), _NAMES):
        part = names[start : start + _NAMES]
        ids = select(col(Device.id), col(Device.number)).where(col(Device.id).in_(part))
        by_id = dict((await session.execute(ids)).all())
        for name in part:
            number = by_id.get(name)
            devices[(await find_device(session, name)).number if number is None else number] = name
    states = dict(
        (
            await session.execute(
                select(col(RolloutDevice.number), col(RolloutDevice.state)).where(_of(session, row, devices))
            )
        ).all()
    )
    strangers = [name for number, name in devices.items() if number not in states]
    if strangers:
        raise ConflictError(
            f"{_list(strangers)}: no member of {rollout_id(row.number)}. What it left out, and why: sdx rollout show "
            f"{rollout_id(row.number)}.",
            "not_a_member",
        )
    return {number: Named(name, states[number]) for number, name in devices.items()}


async def retry(uow: UnitOfWork, row: Rollout, members: Mapping[int, Named] | None, now: datetime) -> int:
    """Queue members again; return how many those are.

    Evidence that somebody accepted goes with the members that it was of (the next tick sees to that, before it offers
    them anything): what they do next counts anew.

    Args:
        uow: The transaction.
        row: Of a rollout whose tallies are counted up to now.
        members: Those that were named; None for all that count as bad.
        now: UTC.

    Raises:
        ConflictError: One of those named is in a state that leaves nothing to try again (code `member_state`).
    """
    session = uow.session
    if members is None:
        chosen: Any = and_(col(RolloutDevice.rollout) == row.number, BAD_ROWS)
    else:
        _refuse(members, (*RETRIED, *_AGAIN), "has nothing to try again")
        chosen = and_(_of(session, row, members), col(RolloutDevice.state).in_(RETRIED))
    return await log.move(session, select(*log.entry(now, "queued", "retried")).where(chosen))


async def skip(uow: UnitOfWork, row: Rollout, members: Mapping[int, Named], now: datetime) -> int:
    """Leave members out, and take their open offers back; return how many those are.

    Raises:
        ConflictError: One of them ended already (code `member_state`): what it ended with stays evidence.
    """
    _refuse(members, (*SKIPPED, "skipped"), "cannot be left out any more")
    numbers = [number for number, member in members.items() if member.state in SKIPPED]
    return await skip_members(uow, row, now, numbers) if numbers else 0


async def queue_withdrawn(session: AsyncSession, row: Rollout, now: datetime) -> int:
    """Queue the members again whose offers a halt took back; return how many those are.

    So is one that committed before it heard of that: it is on its way back, and not on what it committed any more.
    """
    late = and_(
        col(RolloutDevice.state) == "committed", col(RolloutDevice.back_version) > col(RolloutDevice.offer_version)
    )
    taken_back = and_(
        col(RolloutDevice.rollout) == row.number, AWAY_ROWS, or_(col(RolloutDevice.state) == "withdrawn", late)
    )
    return await log.move(session, select(*log.entry(now, "queued", "resumed")).where(taken_back))


def _of(session: AsyncSession, row: Rollout, numbers: Collection[int]) -> Any:
    return and_(col(RolloutDevice.rollout) == row.number, among(session, col(RolloutDevice.number), [*numbers]))


def _refuse(members: Mapping[int, Named], possible: Collection[str], why: str) -> None:
    wrong = [f"{member.device} ({member.state})" for member in members.values() if member.state not in possible]
    if wrong:
        raise ConflictError(f"{_list(wrong)} {why}. Nothing was changed: leave it out.", "member_state")


def _list(names: Sequence[str]) -> str:
    first = ", ".join(names[:_NAMED_IN_REFUSALS])
    return first if len(names) <= _NAMED_IN_REFUSALS else f"{first} and {len(names) - _NAMED_IN_REFUSALS} more"

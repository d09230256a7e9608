"""What devices report becomes outcomes, in the transaction that takes the report.

An action's id is `DEVICE.VERSION`, so the version says whether a report belongs to an offer or to a way back. A device
that is in no rollout costs one look into an index.
"""

from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Row, exists, or_, select
from sqlmodel import col

from firmware_schemas.device_api import ProgressReport, ResultReport
from sdx_hub.domain.rollout.states import FROM_REPORT, FROM_RESULT, IN_FLIGHT
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import TOUCHED_ROWS, DeviceUsage, Rollout, RolloutDevice
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.outcomes import log

MUST_PASS_DONE: Final = "must_pass_done"  # noqa: S105 - a code
_MISSED: Final = ("silent", "lost", "off_duty")
"""Not heard of: whatever comes from them brings them back."""
_TAKEN_BACK: Final = ("queued", "withdrawn", "superseded")
"""The offer is not theirs any more; what it ended with still is so, unless it ended because of that."""


class _Spec(Struct, frozen=True):
    """Of an order: what is needed here."""

    silent_after_s: int


async def progress(uow: UnitOfWork, device: Device, body: ProgressReport, now: datetime) -> None:
    """A member comes on, or is heard of again."""
    state = FROM_REPORT.get(body.state)
    if state is None:
        return
    for member, version in await _members(uow, device, body.action):
        if member.state == state or version != member.offer_version:
            continue
        if member.state in _MISSED:
            if not await _may_return(uow, device, member, version):
                continue
        elif member.state not in IN_FLIGHT:
            continue
        check_at_s = int(now.timestamp()) + msgspec.json.decode(member.spec, type=_Spec).silent_after_s
        await log.note(
            uow.session, member, now, state, code=body.code, detail=body.detail, version=version, check_at_s=check_at_s
        )


async def result(uow: UnitOfWork, device: Device, body: ResultReport, now: datetime) -> None:
    """A member ended, or is back.

    What an offer ended with counts also where it comes late, after the offer was taken back or the device was given up.
    """
    for member, version in await _members(uow, device, body.action):
        ended = _way_back if version != member.offer_version else _offer
        state, code = ended(member, body)
        if not state:
            continue
        use = await _use(uow, device) if state == "committed" else {}
        await log.note(uow.session, member, now, state, code=code, detail=body.detail, version=version, **use)


def _offer(member: Row[Any], body: ResultReport) -> tuple[str, str]:
    """What a member becomes that an offer ended with; empty where it stays what it is."""
    state = FROM_RESULT[body.result]
    if member.state in _TAKEN_BACK:
        if state == "superseded" or member.code == MUST_PASS_DONE:
            return "", ""
    elif member.state not in IN_FLIGHT and member.state not in _MISSED:
        return "", ""
    if state == "committed" and member.offered != member.release_id:
        # Where it was: in the queue, at its old position.
        return ("queued", MUST_PASS_DONE) if member.state not in _TAKEN_BACK else ("", "")
    return state, body.code


def _way_back(member: Row[Any], body: ResultReport) -> tuple[str, str]:
    given_up = member.state == "revert_failed" and member.code == "silent"
    if member.state != "reverting" and not given_up:
        return "", ""
    if body.result == "success":
        return "reverted", body.code
    return "revert_failed", body.code or body.result


async def _members(uow: UnitOfWork, device: Device, action: str) -> list[tuple[Row[Any], int]]:
    """Those that an action belongs to, each with the action's version."""
    identity, _, number = action.rpartition(".")
    if identity != device.id or not (number.isascii() and number.isdigit()) or len(number) > 18:
        return []
    version = int(number)
    member = RolloutDevice
    found: Any = await uow.session.execute(
        select(
            col(member.rollout),
            col(member.number),
            col(member.wave),
            col(member.stratum),
            col(member.state),
            col(member.code),
            col(member.offered),
            col(member.offer_version),
            col(Rollout.release_id),
            col(Rollout.spec),
        )
        .join(Rollout, col(Rollout.number) == col(member.rollout))
        .where(
            col(member.number) == device.number,
            TOUCHED_ROWS,
            or_(col(member.offer_version) == version, col(member.back_version) == version),
        )
    )
    return [(row, version) for row in found]


async def _may_return(uow: UnitOfWork, device: Device, member: Row[Any], version: int) -> bool:
    """Whether a member that was given up is under way again: its action is open, and nothing else is under way."""
    is_open = exists().where(col(Action.id) == f"{device.id}.{version}", col(Action.state) == "open")
    elsewhere = exists().where(
        col(RolloutDevice.number) == device.number,
        col(RolloutDevice.state).in_(IN_FLIGHT),
        col(RolloutDevice.rollout) != member.rollout,
    )
    return bool(await uow.session.scalar(select(is_open & ~elsewhere)))


async def _use(uow: UnitOfWork, device: Device) -> dict[str, int]:
    """From where on the use of a device counts for its wave."""
    totals = select(col(DeviceUsage.flights), col(DeviceUsage.running_s)).where(
        col(DeviceUsage.number) == device.number
    )
    row = (await uow.session.execute(totals)).one_or_none()
    return {"flights": row.flights, "running_s": row.running_s} if row else {}

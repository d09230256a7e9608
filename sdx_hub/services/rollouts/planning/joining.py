"""Devices that match later join the last wave of a rollout that says so.

Only devices that something happened to can begin to match: their timeline has a new line. So a look costs as much as
the fleet has changed, however large it is. Two things leave no line and are not seen: time that passes
(`enrolled > 7d`), and a saved filter that is changed.
"""

from array import array
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import structlog
from sqlalchemy import exists, func, insert, select
from sqlmodel import col

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.rollout.kinds import OTHERS, name_of
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.tables.devices import Device, DeviceEvent
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice, RolloutOutcome, RolloutStratum, RolloutWave
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.release_lookup import find_release
from sdx_hub.services.rollouts.planning.choosing import candidates, matching
from sdx_hub.services.rollouts.planning.eligibility import ELIGIBLE
from sdx_hub.services.rollouts.records.rollout_rows import rollout_id

MAX_EVENTS: Final = 10_000
"""Lines of timelines that one look goes through."""
JOINED: Final = "joined"
"""The code of the outcome."""
_log = structlog.get_logger(__name__)


async def join(uow: UnitOfWork, row: Rollout, order: Order, now: datetime) -> int:
    """Let devices join that have changed and now match; return how many.

    Args:
        uow: The caller commits it.
        row: Of a rollout that has its members.
        order: With every default filled in.
        now: UTC.
    """
    session = uow.session
    newest = int(await session.scalar(select(func.max(col(DeviceEvent.id)))) or 0)
    through = min(newest, row.joined_through + MAX_EVENTS)
    if not order.join or through <= row.joined_through:
        return 0
    last = await session.scalar(
        select(RolloutWave)
        .where(col(RolloutWave.rollout) == row.number)
        .order_by(col(RolloutWave.wave).desc())
        .limit(1)
    )
    if last is None or last.closed_at is not None:
        return 0
    try:
        found = await _newcomers(uow, row, order, through, now)
    except BadInput as error:  # A filter that it names is gone; who is a member stays one.
        _log.warning("rollout_join_failed", rollout=rollout_id(row.number), code=error.code, reason=str(error))
        return 0
    row.joined_through = through
    if found:
        await _add(uow, row, order, last.wave, found, now)
        last.size += len(found)
        row.prepared_through += len(found)
    await session.flush()
    return len(found)


async def _newcomers(uow: UnitOfWork, row: Rollout, order: Order, through: int, now: datetime) -> Sequence[Any]:
    """Rows of `candidates`, in the order in which the devices enrolled."""
    session = uow.session
    changed = (
        select(col(DeviceEvent.device_id))
        .where(col(DeviceEvent.id) > row.joined_through, col(DeviceEvent.id) <= through)
        .distinct()
    )
    member = exists().where(col(RolloutDevice.rollout) == row.number, col(RolloutDevice.number) == col(Device.number))
    numbers = array("q", await session.scalars(select(col(Device.number)).where(col(Device.id).in_(changed), ~member)))
    if not numbers:
        return ()
    release = await find_release(session, row.release_id)
    meant = await matching(session, order, release, now)
    rows = await candidates(session, order, release, (), now)
    few = rows.where(among(session, col(Device.number), numbers), meant).order_by(col(Device.number))
    return [candidate for candidate in await session.execute(few) if candidate[1] == ELIGIBLE]


async def _add(  # noqa: PLR0917 - all of it is one row
    uow: UnitOfWork, row: Rollout, order: Order, wave: int, found: Sequence[Any], now: datetime
) -> None:
    strata = await _strata(uow, row.number)
    members, outcomes = [], []
    for position, (number, _, _, _, site, _, *kind) in enumerate(found, row.prepared_through + 1):
        stratum = strata.get(name_of(kind, order.stratify)) or await _of_others(uow, row.number, strata)
        key = {"rollout": row.number, "number": number, "wave": wave, "stratum": stratum, "state": "queued"}
        members.append(
            key
            | {
                "position": position,
                "site": site,
                "is_control": False,
                "code": JOINED,
                "attempt": 0,
                "flights": 0,
                "running_s": 0,
            }
        )
        outcomes.append(key | {"was": "", "code": JOINED, "detail": "", "time": now})
    await uow.session.execute(insert(RolloutDevice), members)
    await uow.session.execute(insert(RolloutOutcome), outcomes)


async def _strata(uow: UnitOfWork, rollout: int) -> dict[str, int]:
    columns = (col(RolloutStratum.name), col(RolloutStratum.stratum))
    return dict((await uow.session.execute(select(*columns).where(col(RolloutStratum.rollout) == rollout))).all())


async def _of_others(uow: UnitOfWork, rollout: int, strata: dict[str, int]) -> int:
    """The stratum of kinds that nobody knew of at the start: one for all of them, so that the gate's weights stay."""
    if OTHERS not in strata:
        strata[OTHERS] = max(strata.values(), default=0) + 1
        uow.session.add(RolloutStratum(rollout=rollout, stratum=strata[OTHERS], name=OTHERS))
    return strata[OTHERS]

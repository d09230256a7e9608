"""A new desired state for any number of devices, by statements whose rows never leave the database.

Whoever makes one takes the next number of `DEVICE_CHANGE_COUNTER`, and marks the devices with it: no other row has that
`change_seq`, so it names exactly these devices to all later statements of the transaction.
"""

import json
from datetime import datetime
from typing import Any, Final

from sqlalchemy import String, cast, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.persistence.number_lists import found_in
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device, DeviceEvent
from sdx_hub.persistence.types import UtcDateTime
from sdx_hub.services.devices.selecting import Condition

CURRENT_ACTION: Final[Any] = col(Device.id) + "." + cast(col(Device.desired_version), String)
"""The id of a device's current action."""


async def mark(session: AsyncSession, seq: int, which: Condition, *, has_assignment: Any, step: int = 1) -> int:
    """Count the desired state of these devices up by `step`, and mark them with `seq`; return how many they are."""
    done: Any = await session.execute(
        update(Device)
        .where(which)
        .values(desired_version=col(Device.desired_version) + step, has_assignment=has_assignment, change_seq=seq)
        .execution_options(synchronize_session=False)
    )
    return int(done.rowcount)


async def open_actions(session: AsyncSession, seq: int, now: datetime, *, ended: str, code: str, why: str) -> None:
    """End the open action of each marked device, and open the next where something is assigned.

    Args:
        session: Of the unit of work, with the assignments as they shall be.
        seq: What the devices are marked with.
        now: UTC.
        ended: The final state of the actions that were open.
        code: The reason, for those.
        why: The reason, for the timeline.
    """
    marked = col(Device.change_seq) == seq
    await session.execute(
        update(Action)
        .where(
            col(Action.state) == "open", found_in(session, col(Action.device_id), select(col(Device.id)).where(marked))
        )
        .values(state=ended, code=code, finished_at=now)
        .execution_options(synchronize_session=False)
    )
    action = {
        "id": CURRENT_ACTION,
        "device_id": col(Device.id),
        "desired_version": col(Device.desired_version),
        "releases": _releases(),
        "state": literal("open"),
        "code": literal(""),
        "detail": literal(""),
        "created_at": literal(now, UtcDateTime),
    }
    opened = select(*action.values()).where(marked, col(Device.has_assignment))
    await session.execute(insert(Action).from_select(list(action), opened))
    event = {
        "device_id": col(Device.id),
        "time": literal(now, UtcDateTime),
        "kind": literal("desired"),
        "detail": _detail(why),
    }
    told = select(*event.values()).outerjoin(Action, col(Action.id) == CURRENT_ACTION).where(marked)
    await session.execute(insert(DeviceEvent).from_select(list(event), told))


def _releases() -> Any:
    """JSON object, product to release id. Their alphabets (`firmware_schemas.ids`) have nothing that JSON escapes."""
    pair = literal('"') + col(Assignment.product) + '": "' + col(Assignment.release_id) + '"'
    pairs = (
        select(pair.label("pair"))
        .where(col(Assignment.device_id) == col(Device.id))
        .order_by(col(Assignment.product))
        .correlate(Device)
        .subquery()
    )
    joined = select(func.aggregate_strings(pairs.c.pair, ", ")).scalar_subquery()
    return literal("{") + joined + "}"


def _detail(why: str) -> Any:
    version = cast(col(Device.desired_version), String)
    releases = func.coalesce(col(Action.releases), "{}")
    return literal('{"desired_version": ') + version + ', "releases": ' + releases + f', "why": {json.dumps(why)}}}'

"""A device as people see it: what it is, what it should run, what it says it runs, and how its last action ended."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from firmware_schemas.device_api import InstalledComponent as Installed
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device, DeviceAttribute, DeviceSeen, DeviceTag, InstalledComponent
from sdx_hub.persistence.tables.rollouts import DevicePin, DeviceUsage

_Row = TypeVar("_Row", bound=SQLModel)


class ActionView(Struct, frozen=True):
    """One desired state, and how it ended.

    Attributes:
        releases: Product to release id.
    """

    id: str
    state: str
    code: str
    detail: str
    releases: dict[str, str]
    created_at: datetime
    finished_at: datetime | None


class UsageView(Struct, frozen=True):
    """How much a device was used in its life, by its last signed report: totals that only grow."""

    flights: int
    running_s: int
    reported_at: datetime


class DeviceView(Struct, frozen=True):
    """A device.

    Attributes:
        components: Out of its last signed inventory, by name.
        assignments: Product to the release id that it should run.
        action: The newest one.
        rotation_wanted: The hub asks it for a new poll token.
        pinned: Why it stays on what it runs, whatever rolls out; empty where it is not pinned.
        usage: None where it has not said anything of it.
        last_seen_at: Its last poll, to the second, at most a few seconds late.
    """

    id: str
    serial: str
    hardware: str
    state: str
    device_key: str
    agent_version: str
    tags: list[str]
    attributes: dict[str, str]
    components: list[Installed]
    assignments: dict[str, str]
    action: ActionView | None
    desired_version: int
    rotation_wanted: bool
    pinned: str
    usage: UsageView | None
    last_seen_at: datetime | None
    created_at: datetime
    accepted_at: datetime | None
    revoked_at: datetime | None


async def views(session: AsyncSession, devices: Sequence[Device]) -> list[DeviceView]:
    """What there is to show of these devices, in their order; a fixed number of queries for all of them."""
    ids = [device.id for device in devices]
    tags = await _by_device(session, DeviceTag, ids)
    attributes = await _by_device(session, DeviceAttribute, ids)
    components = await _by_device(session, InstalledComponent, ids)
    assignments = await _by_device(session, Assignment, ids)
    actions = await _newest_actions(session, ids)
    numbers = [device.number for device in devices]
    pinned = select(col(DevicePin.number), col(DevicePin.reason)).where(col(DevicePin.number).in_(numbers))
    pins = dict((await session.execute(pinned)).all())
    used = {row.number: row for row in await session.scalars(_used(numbers))}
    seen_rows = await session.execute(
        select(col(DeviceSeen.number), col(DeviceSeen.last_seen_s)).where(col(DeviceSeen.number).in_(numbers))
    )
    seen = {number: datetime.fromtimestamp(time_s, UTC) for number, time_s in seen_rows}
    return [
        DeviceView(
            id=device.id,
            serial=device.serial,
            hardware=device.hardware,
            state=device.state,
            device_key=device.device_key,
            agent_version=device.agent_version,
            tags=sorted(row.tag for row in tags[device.id]),
            attributes={row.name: row.value for row in sorted(attributes[device.id], key=lambda row: row.name)},
            components=[
                msgspec.convert(row, Installed, from_attributes=True)
                for row in sorted(components[device.id], key=lambda row: row.name)
            ],
            assignments={row.product: row.release_id for row in assignments[device.id]},
            action=actions.get(device.id),
            desired_version=device.desired_version,
            rotation_wanted=device.rotation_wanted,
            pinned=pins.get(device.number, ""),
            usage=msgspec.convert(used.get(device.number), UsageView | None, from_attributes=True),
            last_seen_at=seen.get(device.number),
            created_at=device.created_at,
            accepted_at=device.accepted_at,
            revoked_at=device.revoked_at,
        )
        for device in devices
    ]


def _used(numbers: Sequence[int]) -> Select[DeviceUsage]:
    return select(DeviceUsage).where(col(DeviceUsage.number).in_(numbers))


async def _by_device(session: AsyncSession, table: type[_Row], ids: Iterable[str]) -> dict[str, list[_Row]]:
    key: Any = SQLModel.metadata.tables[str(table.__tablename__)].c.device_id
    found: dict[str, list[_Row]] = defaultdict(list)
    for row in await session.scalars(select(table).where(key.in_(list(ids)))):
        found[row.device_id].append(row)  # type: ignore[attr-defined]
    return found


async def _newest_actions(session: AsyncSession, ids: Iterable[str]) -> dict[str, ActionView]:
    newest = (
        select(col(Action.device_id), func.max(col(Action.desired_version)).label("version"))
        .where(col(Action.device_id).in_(list(ids)))
        .group_by(col(Action.device_id))
        .subquery()
    )
    rows = await session.scalars(
        select(Action).join(
            newest,
            (col(Action.device_id) == newest.c.device_id) & (col(Action.desired_version) == newest.c.version),
        )
    )
    return {
        row.device_id: ActionView(
            row.id, row.state, row.code, row.detail, json.loads(row.releases), row.created_at, row.finished_at
        )
        for row in rows
    }

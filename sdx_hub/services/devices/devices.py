"""Looking at devices, and naming them: tags and attributes. What they may do is decided in `enrolment`."""

import json
import re
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import delete, exists, func, select
from sqlmodel import col

from firmware_schemas.ids import check_name
from firmware_schemas.limits import MAX_TAGS
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.deadlines import deadline
from sdx_hub.persistence.tables.devices import (
    Device,
    DeviceAttribute,
    DeviceEvent,
    DeviceInventory,
    DeviceTag,
    InstalledComponent,
)
from sdx_hub.services.devices.device_rows import add_event, find_device
from sdx_hub.services.devices.device_views import DeviceView, views
from sdx_hub.services.devices.previewing import QUERY_DEADLINE_S
from sdx_hub.services.devices.selecting import Condition, select_devices
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor

STATES = frozenset({"pending", "accepted", "revoked"})
MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_CHARS = 512
"""At most 2,048 bytes: PostgreSQL's B-trees take no entry of more than 2,704."""

_ATTRIBUTE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?")


class TimelineEvent(Struct, frozen=True):
    """One line of a device's timeline."""

    id: int
    time: datetime
    kind: str
    detail: dict[str, Any]


class SignedInventory(Struct, frozen=True):
    """A device's last inventory as it signed it: anybody with its key can verify it without this hub.

    Attributes:
        device_key: Raw Ed25519 public key in hexadecimal.
        payload, signature: Base64 of the exact bytes.
    """

    device_id: str
    device_key: str
    payload: str
    signature: str
    received_at: datetime


class DeviceFilter(Struct, frozen=True):
    """Which devices; what is not given does not matter.

    Attributes:
        product, version: Of a component that runs on the device, by its last inventory.
        query: In the language of `sdx_hub.domain.query`.
    """

    state: str | None = None
    tag: str | None = None
    product: str | None = None
    version: str | None = None
    query: str | None = None


class DeviceService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(
        self, principal: Principal, wanted: DeviceFilter, *, cursor: str | None, limit: int
    ) -> Page[DeviceView]:
        """Devices, in the order in which they enrolled.

        Raises:
            NotAllowed: The role may not read.
            BadInput: The state, the query or the cursor is none (codes `invalid_state`, `query_invalid` and what else
                `select_devices` says, `invalid_cursor`).
            Unavailable: It took too long (code `query_timeout`).
        """
        principal.require(Permission.READ)
        rows = select(Device).where(*_conditions(wanted)).order_by(col(Device.number)).limit(limit + 1)
        if cursor:
            rows = rows.where(col(Device.number) > decode_cursor(cursor, int))
        async with self._database.reading() as session, deadline(session, QUERY_DEADLINE_S):
            if wanted.query:
                selection = await select_devices(session, wanted.query, self._clock.now())
                rows = rows.where(selection.condition)
            devices, more = cut((await session.scalars(rows)).all(), limit)
            following = encode_cursor(devices[-1].number) if more else None
            return Page(await views(session, devices), following)

    async def show(self, principal: Principal, name: str) -> DeviceView:
        """One device, by id or serial.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such device (code `device_unknown`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            return (await views(session, [await find_device(session, name)]))[0]

    async def timeline(self, principal: Principal, name: str, *, cursor: str | None, limit: int) -> Page[TimelineEvent]:
        """What happened to a device, the newest first.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such device (code `device_unknown`).
            BadInput: The cursor is none (code `invalid_cursor`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            device = await find_device(session, name)
            query = (
                select(DeviceEvent)
                .where(col(DeviceEvent.device_id) == device.id)
                .order_by(col(DeviceEvent.id).desc())
                .limit(limit + 1)
            )
            if cursor:
                query = query.where(col(DeviceEvent.id) < decode_cursor(cursor, int))
            rows, more = cut((await session.scalars(query)).all(), limit)
        events = [TimelineEvent(row.id or 0, row.time, row.kind, json.loads(row.detail)) for row in rows]
        return Page(events, encode_cursor(events[-1].id) if more else None)

    async def inventory(self, principal: Principal, name: str) -> SignedInventory:
        """What a device last signed about what runs on it.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such device, or it has sent none yet (codes `device_unknown`, `inventory_missing`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            device = await find_device(session, name)
            held = await session.get(DeviceInventory, device.id)
        if held is None:
            raise NotFound(f"{device.id} has not sent an inventory yet.", "inventory_missing")
        return SignedInventory(device.id, device.device_key, held.payload, held.signature, held.received_at)

    async def tag(self, principal: Principal, name: str, tag: str) -> DeviceView:
        """Give a device a tag; one that it has stays.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device (code `device_unknown`).
            InvalidName: The tag has another alphabet or is too long.
            ConflictError: It has as many tags as a device may have (code `too_many_tags`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        check_name(tag, "tag")
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, name)
            if await uow.session.get(DeviceTag, (device.id, tag)) is None:
                mine = select(func.count()).where(col(DeviceTag.device_id) == device.id)
                if (await uow.session.scalar(mine) or 0) >= MAX_TAGS:
                    raise ConflictError(f"{device.id} has {MAX_TAGS} tags already: remove one.", "too_many_tags")
                uow.session.add(DeviceTag(device_id=device.id, tag=tag))
                add_event(uow, device.id, self._clock.now(), "tagged", tag=tag, by=principal.name)
                await uow.audit(principal.name, "device.tag", device.id, tag=tag)
                await uow.commit()
            return (await views(uow.session, [device]))[0]

    async def untag(self, principal: Principal, name: str, tag: str) -> DeviceView:
        """Take a tag away from a device; one that it does not have is no error.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device (code `device_unknown`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, name)
            held = await uow.session.get(DeviceTag, (device.id, tag))
            if held is not None:
                await uow.session.delete(held)
                add_event(uow, device.id, self._clock.now(), "untagged", tag=tag, by=principal.name)
                await uow.audit(principal.name, "device.untag", device.id, tag=tag)
                await uow.commit()
            return (await views(uow.session, [device]))[0]

    async def set_attributes(
        self, principal: Principal, name: str, attributes: dict[str, str], *, expected: dict[str, str] | None = None
    ) -> DeviceView:
        """Replace a device's attributes.

        Args:
            principal: Who asks.
            name: Id or serial.
            attributes: All of them.
            expected: What the caller last saw; None replaces whatever is there.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device (code `device_unknown`).
            BadInput: Too many, too long, or another alphabet (code `invalid_attributes`).
            ConflictError: Somebody else changed them in the meantime (code `attributes_changed`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        _check_attributes(attributes)
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, name)
            mine = col(DeviceAttribute.device_id) == device.id
            held = select(col(DeviceAttribute.name), col(DeviceAttribute.value)).where(mine)
            before = dict((await uow.session.execute(held)).all())
            if expected is not None and expected != before:
                raise ConflictError("The attributes were changed in the meantime: look again.", "attributes_changed")
            if before != attributes:
                await uow.session.execute(delete(DeviceAttribute).where(mine))
                uow.session.add_all(
                    DeviceAttribute(device_id=device.id, name=key, value=value) for key, value in attributes.items()
                )
                changed = sorted(
                    key for key in before.keys() | attributes.keys() if before.get(key) != attributes.get(key)
                )
                add_event(uow, device.id, self._clock.now(), "attributes", changed=changed, by=principal.name)
                await uow.audit(principal.name, "device.set_attributes", device.id, changed=changed)
                await uow.commit()
            return (await views(uow.session, [device]))[0]


def _conditions(wanted: DeviceFilter) -> list[Condition]:
    conditions: list[Condition] = []
    if wanted.state is not None:
        if wanted.state not in STATES:
            raise BadInput(f"A device is {', '.join(sorted(STATES))}.", "invalid_state")
        conditions.append(col(Device.state) == wanted.state)
    if wanted.tag:
        conditions.append(exists().where(col(DeviceTag.device_id) == col(Device.id), col(DeviceTag.tag) == wanted.tag))
    if wanted.product or wanted.version:
        runs = exists().where(col(InstalledComponent.device_id) == col(Device.id))
        if wanted.product:
            runs = runs.where(col(InstalledComponent.product) == wanted.product)
        if wanted.version:
            runs = runs.where(col(InstalledComponent.version) == wanted.version)
        conditions.append(runs)
    return conditions


def _check_attributes(attributes: dict[str, str]) -> None:
    if len(attributes) > MAX_ATTRIBUTES:
        raise BadInput(f"A device has at most {MAX_ATTRIBUTES} attributes.", "invalid_attributes")
    for key, value in attributes.items():
        if not _ATTRIBUTE.fullmatch(key):
            raise BadInput(
                f"{key[:80]!r} cannot name an attribute: use 1 to 64 letters, digits and . _ / -.",
                "invalid_attributes",
            )
        if len(value) > MAX_ATTRIBUTE_CHARS or not value.isprintable():
            raise BadInput(
                f"An attribute has at most {MAX_ATTRIBUTE_CHARS} characters, all of them printable.",
                "invalid_attributes",
            )

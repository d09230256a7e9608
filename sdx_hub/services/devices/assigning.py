"""Say which release a device should run: the desired state, counted by `desired_version`, one open action at a time."""

import json
from collections import defaultdict
from datetime import datetime

from msgspec import Struct
from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.release import ReleaseManifest, decode_manifest
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device, DeviceEvent, DeviceTag
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.device_rows import find_device
from sdx_hub.services.devices.fleet_state import FleetState

MAX_DEVICES_PER_REQUEST = 10_000
_CHUNK = 500
_RETRY_AFTER = frozenset({"failed", "rolled_back", "refused", "cancelled"})


class Refused(Struct, frozen=True):
    """A device that does not get the release, and why."""

    device: str
    code: str
    detail: str


class Assigned(Struct, frozen=True):
    """What an assignment did, by device id."""

    assigned: list[str]
    unchanged: list[str]
    refused: list[Refused]


class _Plan(Struct):
    devices: list[Device]
    unchanged: list[str]
    refused: list[Refused]


class AssigningService:
    def __init__(self, database: Database, clock: Clock, fleet: FleetState) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet

    async def assign(
        self, principal: Principal, release_id: str, devices: list[str] | None, tag: str | None
    ) -> Assigned:
        """Make `release_id` the desired release of its product on these devices.

        A device that has it already is left alone, unless its last action did not succeed: then it is tried again.

        Args:
            principal: Who asks.
            release_id: `PRODUCT@VERSION`, published.
            devices: Ids or serials.
            tag: Instead: every device with this tag.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such release.
            ConflictError: It is not published (code `release_not_published`).
            BadInput: Neither devices nor a tag are named, or both.
        """
        principal.require(Permission.OPERATE_DEVICES)
        if (devices is None) == (tag is None):
            raise BadInput("Name either devices or a tag.", "devices_or_tag")
        if devices is not None and len(devices) > MAX_DEVICES_PER_REQUEST:
            raise BadInput(f"At most {MAX_DEVICES_PER_REQUEST} devices in one request; or use a tag.")
        async with self._database.unit_of_work() as uow:
            release = await uow.session.get(Release, release_id)
            if release is None:
                raise NotFound(f"There is no release {release_id[:129]!r}. See: sdx release list.", "release_not_found")
            if release.state != "published":
                raise ConflictError(
                    f"{release_id} is {release.state}, not published; nothing was assigned.", "release_not_published"
                )
            manifest = decode_manifest(release.manifest)
            plan = _Plan([], [], [])
            chosen = await self._chosen(uow.session, devices, tag, plan)
            await self._sort(uow.session, release, manifest, chosen, plan)
            if plan.devices:
                await self._write(uow, principal, release, plan.devices)
                await uow.commit()
        return Assigned([device.id for device in plan.devices], plan.unchanged, plan.refused)

    async def unassign(self, uow: UnitOfWork, release_id: str, actor: str) -> None:
        """Take a yanked release away from every device, inside the transaction of the yank."""
        found = await uow.session.scalars(
            select(Device)
            .join(Assignment, col(Assignment.device_id) == col(Device.id))
            .where(col(Assignment.release_id) == release_id)
        )
        devices = list(found)
        if not devices:
            return
        await uow.session.execute(delete(Assignment).where(col(Assignment.release_id) == release_id))
        await self._new_desired_state(
            uow, devices, ended="cancelled", code="release_yanked", why=f"{release_id} yanked"
        )
        await uow.audit(actor, "release.unassign", release_id, devices=len(devices))

    async def _chosen(
        self, session: AsyncSession, names: list[str] | None, tag: str | None, plan: _Plan
    ) -> list[Device]:
        if names is None:
            tagged = select(Device).join(DeviceTag, col(DeviceTag.device_id) == col(Device.id))
            found = await session.scalars(
                tagged.where(col(DeviceTag.tag) == tag, col(Device.state) != "revoked").order_by(col(Device.number))
            )
            return list(found)
        chosen: dict[str, Device] = {}
        for start in range(0, len(names), _CHUNK):
            # Almost all names are ids: one query for many, and the writer's lock is soon free again.
            part = names[start : start + _CHUNK]
            by_id = {
                device.id: device for device in await session.scalars(select(Device).where(col(Device.id).in_(part)))
            }
            for name in part:
                try:
                    device = by_id.get(name) or await find_device(session, name)
                except NotFound as error:
                    plan.refused.append(Refused(name, error.code, str(error)))
                else:
                    chosen[device.id] = device
        return list(chosen.values())

    async def _sort(
        self, session: AsyncSession, release: Release, manifest: ReleaseManifest, chosen: list[Device], plan: _Plan
    ) -> None:
        held: dict[str, str] = {}
        last: dict[str, str] = {}
        for part in _chunks(chosen):
            ids = [device.id for device in part]
            rows = await session.execute(
                select(col(Assignment.device_id), col(Assignment.release_id)).where(
                    col(Assignment.product) == release.product, col(Assignment.device_id).in_(ids)
                )
            )
            held.update((identity, release_id) for identity, release_id in rows)
            current = [f"{device.id}.{device.desired_version}" for device in part]
            states = await session.execute(
                select(col(Action.device_id), col(Action.state)).where(col(Action.id).in_(current))
            )
            last.update((identity, state) for identity, state in states)
        for device in chosen:
            if device.state != "accepted":
                detail = "Accept it first: sdx device accept." if device.state == "pending" else "It was revoked."
                plan.refused.append(Refused(device.id, f"device_{device.state}", detail))
            elif not manifest.fits(device.hardware):
                detail = f"{release.id} is for {', '.join(manifest.hardware)}; this device is {device.hardware}."
                plan.refused.append(Refused(device.id, "wrong_hardware", detail))
            elif held.get(device.id) == release.id and last.get(device.id) not in _RETRY_AFTER:
                plan.unchanged.append(device.id)
            else:
                plan.devices.append(device)

    async def _write(self, uow: UnitOfWork, principal: Principal, release: Release, devices: list[Device]) -> None:
        now = self._clock.now()
        for part in _chunks(devices):
            ids = [device.id for device in part]
            await uow.session.execute(
                delete(Assignment).where(col(Assignment.product) == release.product, col(Assignment.device_id).in_(ids))
            )
        rows = [
            {"device_id": device.id, "product": release.product, "release_id": release.id, "assigned_at": now}
            for device in devices
        ]
        await uow.session.execute(insert(Assignment), rows)
        await self._new_desired_state(uow, devices, ended="superseded", code="", why=f"{release.id} assigned")
        await uow.audit(
            principal.name,
            "release.assign",
            release.id,
            devices=[device.id for device in devices[:100]],
            count=len(devices),
        )

    async def _new_desired_state(
        self, uow: UnitOfWork, devices: list[Device], *, ended: str, code: str, why: str
    ) -> None:
        """Count the desired state up, end the open action, and open the next where something is assigned."""
        session, now = uow.session, self._clock.now()
        seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        desired: dict[str, dict[str, str]] = defaultdict(dict)
        for part in _chunks(devices):
            ids = [device.id for device in part]
            rows = await session.execute(
                select(col(Assignment.device_id), col(Assignment.product), col(Assignment.release_id)).where(
                    col(Assignment.device_id).in_(ids)
                )
            )
            for identity, product, release_id in rows:
                desired[identity][product] = release_id
            await session.execute(
                update(Action)
                .where(col(Action.device_id).in_(ids), col(Action.state) == "open")
                .values(state=ended, code=code, finished_at=now)
            )
        versions = {device.id: device.desired_version + 1 for device in devices}
        connection = await session.connection()
        table = Device.metadata.tables["device"]
        await connection.execute(
            table.update()
            .where(table.c.id == bindparam("device"))
            .values(desired_version=bindparam("version"), has_assignment=bindparam("assigned"), change_seq=seq),
            [
                {"device": identity, "version": version, "assigned": bool(desired[identity])}
                for identity, version in versions.items()
            ],
        )
        actions = [_action(identity, versions[identity], desired[identity], now) for identity in versions]
        if opened := [action for action in actions if action["releases"] != "{}"]:
            await session.execute(insert(Action), opened)
        events = [
            {
                "device_id": identity,
                "time": now,
                "kind": "desired",
                "detail": json.dumps(
                    {"desired_version": version, "releases": desired[identity], "why": why}, sort_keys=True
                ),
            }
            for identity, version in versions.items()
        ]
        await session.execute(insert(DeviceEvent), events)
        uow.after_commit(self._fleet.catch_up)


def _action(identity: str, version: int, releases: dict[str, str], now: datetime) -> dict[str, object]:
    return {
        "id": f"{identity}.{version}",
        "device_id": identity,
        "desired_version": version,
        "releases": json.dumps(releases, sort_keys=True),
        "state": "open",
        "code": "",
        "detail": "",
        "created_at": now,
    }


def _chunks(devices: list[Device]) -> list[list[Device]]:
    return [devices[start : start + _CHUNK] for start in range(0, len(devices), _CHUNK)]

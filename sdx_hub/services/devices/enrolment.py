"""How a craft becomes a device: by a single-use token, by a key known beforehand, or by an operator's decision.

An enrolment is signed with the key that it brings, and holds no secret in its answer. So a replay gains nothing: the
same key gets the same answer and nothing changes, another key finds the token used.
"""

import base64
import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Literal, Protocol

from msgspec import Struct
from sqlalchemy import func, select, update
from sqlmodel import col

from firmware_schemas.device_api import EnrolRequest, EnrolResponse, EnrolString, Envelope, decode_enrolment
from firmware_schemas.ids import DeviceId
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound, TrustError
from sdx_hub.domain.signed_claim import verify_claim
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.devices import Device, EnrolToken, PreauthorisedKey
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, DEVICE_NUMBER_COUNTER, UnitOfWork
from sdx_hub.services.devices.device_rows import add_event, find_device
from sdx_hub.services.devices.fleet_state import FleetState

MAX_ENROL_LIFE = timedelta(days=90)
MAX_PENDING = 10_000
"""Anybody can ask to be enrolled; so many may wait for an operator, and no more."""


class RootDigests(Protocol):
    @property
    def image(self) -> str: ...
    @property
    def director(self) -> str: ...


class Roots(Protocol):
    """The part of the trust service that enrolment needs."""

    async def root_with_digest(self, repository: Literal["image", "director"], sha256: str) -> bytes: ...
    def root_digests(self) -> RootDigests: ...


class NewEnrolToken(Struct, frozen=True):
    """A single-use token, written as the string that is carried to the device."""

    id: str
    enrol_string: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"NewEnrolToken(id={self.id!r}, enrol_string=***)"


class EnrolmentService:
    def __init__(self, database: Database, clock: Clock, roots: Roots, fleet: FleetState) -> None:
        self._database = database
        self._clock = clock
        self._roots = roots
        self._fleet = fleet

    async def enrol(self, envelope: Envelope) -> EnrolResponse:
        """Enrol a device, or repeat the answer that it had.

        Raises:
            SchemaError: The payload does not follow the contract.
            TrustError: `bad_signature`, or `root_unknown`.
            NotAllowed: `enrol_token_unknown`, `enrol_token_expired`, `enrol_token_wrong_serial`, `device_revoked`.
            ConflictError: `enrol_token_used`, `serial_taken`, `token_taken`, `too_many_pending`.
        """
        payload = envelope.payload_bytes()
        request = decode_enrolment(payload)
        verify_claim(request.device_key, payload, envelope.signature_bytes())
        image = await self._root("image", request.image_root_sha256)
        director = await self._root("director", request.director_root_sha256)
        async with self._database.unit_of_work() as uow:
            device = await uow.session.scalar(select(Device).where(col(Device.device_key) == request.device_key))
            if device is not None and device.state == "revoked":
                raise NotAllowed("This device was revoked. It cannot come back with this key.", "device_revoked")
            if device is None:
                device = await self._add(uow, request)
                await uow.commit()
            elif device.state == "pending" and device.serial == request.serial and await self._proven(uow, request):
                await self._accept(uow, device, device.id)
                await uow.commit()
        return EnrolResponse(
            device_id=device.id,
            state="accepted" if device.state == "accepted" else "pending",
            image_root=base64.b64encode(image).decode(),
            director_root=base64.b64encode(director).decode(),
            interval_s=self._fleet.settings.interval_s,
        )

    async def new_enrol_token(self, principal: Principal, serial: str | None, life: timedelta) -> NewEnrolToken:
        """Make a single-use enrolment string; it carries the digests of the current roots.

        Raises:
            NotAllowed: The role does not operate devices.
            BadInput: The life is out of bounds.
        """
        principal.require(Permission.OPERATE_DEVICES)
        if not timedelta(0) < life <= MAX_ENROL_LIFE:
            raise BadInput(f"An enrolment token lives between a second and {MAX_ENROL_LIFE.days} days.", "invalid_life")
        roots = self._roots.root_digests()
        identity, secret = secrets.token_hex(6), secrets.token_urlsafe(24)
        now = self._clock.now()
        row = EnrolToken(
            id=identity,
            secret_sha256=_sha256(secret),
            serial=serial,
            expires_at=now + life,
            created_by=principal.name,
            created_at=now,
        )
        async with self._database.unit_of_work() as uow:
            uow.session.add(row)
            await uow.audit(principal.name, "enrol_token.create", identity, serial=serial)
            await uow.commit()
        return NewEnrolToken(identity, EnrolString(secret, roots.image, roots.director).text(), row.expires_at)

    async def preauthorise(self, principal: Principal, device_key: str, serial: str | None) -> None:
        """Accept a device key before the device shows up; the same one again changes nothing.

        Raises:
            NotAllowed: The role does not operate devices.
            ConflictError: The key is preauthorised for another serial.
        """
        principal.require(Permission.OPERATE_DEVICES)
        async with self._database.unit_of_work() as uow:
            known = await uow.session.get(PreauthorisedKey, device_key)
            if known is not None:
                if known.serial != serial:
                    raise ConflictError(
                        f"This key is preauthorised for the serial {known.serial!r}.", "preauthorised_otherwise"
                    )
                return
            uow.session.add(
                PreauthorisedKey(
                    device_key=device_key, serial=serial, created_by=principal.name, created_at=self._clock.now()
                )
            )
            await uow.audit(principal.name, "device_key.preauthorise", device_key, serial=serial)
            await uow.commit()

    async def accept(self, principal: Principal, name: str) -> DeviceId:
        """Accept a pending device; one that is accepted stays as it is.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device.
            ConflictError: It was revoked.
        """
        principal.require(Permission.OPERATE_DEVICES)
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, name)
            if device.state == "revoked":
                raise ConflictError("A revoked device stays revoked: it needs a new key.", "device_revoked")
            if device.state == "pending":
                await self._accept(uow, device, principal.name)
                await uow.commit()
        return DeviceId(device.id)

    async def revoke(self, principal: Principal, name: str) -> DeviceId:
        """Revoke a device for good; its next poll is refused.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device.
        """
        principal.require(Permission.OPERATE_DEVICES)
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, name)
            if device.state != "revoked":
                await self._revoke(uow, device, principal.name, "by an operator")
                await uow.commit()
        return DeviceId(device.id)

    async def _root(self, repository: Literal["image", "director"], sha256: str) -> bytes:
        try:
            return await self._roots.root_with_digest(repository, sha256)
        except NotFound:
            raise TrustError(
                f"This hub has no {repository} root with the digest {sha256[:12]}...: the device was told to trust "
                "another hub, or the string is old. Make a new one: sdx device token.",
                "root_unknown",
            ) from None

    async def _add(self, uow: UnitOfWork, request: EnrolRequest) -> Device:
        authorised = await self._authorise(uow, request)
        await self._claim_serial(uow, request, authorised=authorised)
        taken = select(col(Device.id)).where(
            (col(Device.token_sha256) == request.token_sha256) | (col(Device.next_token_sha256) == request.token_sha256)
        )
        if await uow.session.scalar(taken) is not None:
            # Whoever overheard another device's enrolment must not take over, or shut out, its polls.
            raise ConflictError("This poll token belongs to another device. Make a new one.", "token_taken")
        now = self._clock.now()
        device = Device(
            id=device_id_of(request.device_key),
            number=await uow.next_number(DEVICE_NUMBER_COUNTER),
            serial=request.serial,
            device_key=request.device_key,
            hardware=request.hardware,
            state="accepted" if authorised else "pending",
            token_sha256=request.token_sha256,
            change_seq=await uow.next_number(DEVICE_CHANGE_COUNTER),
            created_at=now,
            accepted_at=now if authorised else None,
            agent_version=request.agent_version,
        )
        uow.session.add(device)
        await uow.session.flush()
        add_event(uow, device.id, now, "enrolled", state=device.state, hardware=device.hardware)
        await uow.audit(device.id, "device.enrol", device.id, serial=device.serial, state=device.state)
        uow.after_commit(self._fleet.catch_up)
        return device

    async def _proven(self, uow: UnitOfWork, request: EnrolRequest) -> bool:
        if request.enrol_token:
            await self._spend_token(uow, request)
            return True
        known = await uow.session.get(PreauthorisedKey, request.device_key)
        return known is not None and known.serial in {None, request.serial}

    async def _authorise(self, uow: UnitOfWork, request: EnrolRequest) -> bool:
        if await self._proven(uow, request):
            return True
        pending = await uow.session.scalar(select(func.count()).where(col(Device.state) == "pending"))
        if (pending or 0) >= MAX_PENDING:
            raise ConflictError(
                f"{MAX_PENDING} devices wait to be accepted. An operator must accept or revoke some first.",
                "too_many_pending",
            )
        return False

    async def _spend_token(self, uow: UnitOfWork, request: EnrolRequest) -> None:
        found = select(EnrolToken).where(col(EnrolToken.secret_sha256) == _sha256(request.enrol_token))
        token = await uow.session.scalar(found)
        if token is None:
            raise NotAllowed(
                "This enrolment token is not known here. Make one: sdx device token.", "enrol_token_unknown"
            )
        if token.used_by_key is not None:
            raise ConflictError(
                "This enrolment token was used by another device. Make a new one: sdx device token. If nobody used "
                "it on purpose, revoke that device.",
                "enrol_token_used",
            )
        now = self._clock.now()
        if token.expires_at <= now:
            raise NotAllowed(
                "This enrolment token has expired. Make a new one: sdx device token.", "enrol_token_expired"
            )
        if token.serial is not None and token.serial != request.serial:
            raise NotAllowed("This enrolment token is for another serial.", "enrol_token_wrong_serial")
        token.used_by_key, token.used_at = request.device_key, now

    async def _claim_serial(self, uow: UnitOfWork, request: EnrolRequest, *, authorised: bool) -> None:
        """Refuse a serial that is in use, except that a proven device takes it from one that merely waits."""
        in_use = select(Device).where(col(Device.serial) == request.serial, col(Device.state) != "revoked")
        holder = await uow.session.scalar(in_use)
        if holder is None:
            return
        if holder.state != "pending" or not authorised:
            raise ConflictError(
                f"Another device has the serial {request.serial!r}. If this craft got a new key, revoke the old "
                f"device first: sdx device revoke {request.serial}.",
                "serial_taken",
            )
        await self._revoke(uow, holder, "hub", "an authorised device has this serial")
        await uow.session.flush()

    async def _accept(self, uow: UnitOfWork, device: Device, actor: str) -> None:
        now = self._clock.now()
        device.state, device.accepted_at = "accepted", now
        device.change_seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        add_event(uow, device.id, now, "accepted", by=actor)
        await uow.audit(actor, "device.accept", device.id, serial=device.serial)
        uow.after_commit(self._fleet.catch_up)

    async def _revoke(self, uow: UnitOfWork, device: Device, actor: str, reason: str) -> None:
        now = self._clock.now()
        await uow.session.execute(
            update(Device)
            .where(col(Device.id) == device.id, col(Device.state) != "revoked")
            .values(state="revoked", revoked_at=now, change_seq=await uow.next_number(DEVICE_CHANGE_COUNTER))
        )
        await uow.session.execute(
            update(Action)
            .where(col(Action.device_id) == device.id, col(Action.state) == "open")
            .values(state="cancelled", code="device_revoked", finished_at=now)
        )
        add_event(uow, device.id, now, "revoked", by=actor, reason=reason)
        await uow.audit(actor, "device.revoke", device.id, serial=device.serial, reason=reason)
        uow.after_commit(self._fleet.catch_up)


def device_id_of(device_key: str) -> DeviceId:
    """The id that a key implies: nobody can choose the id of another device."""
    return DeviceId("d-" + hashlib.sha256(bytes.fromhex(device_key)).hexdigest()[:20])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

"""Signed reports: verified over their exact bytes, guarded against replay, acknowledged only after the commit.

For each envelope, in this order:

1. The signature is the device's, over these bytes.
2. The payload follows the contract, and names the device whose poll token brought it.
3. The counter is larger than every accepted one. The same counter with the same bytes is a duplicate, which is an
   acknowledgement too: the first answer was lost. Anything else is a replay.
4. What it says takes effect, in the one transaction of the batch.
"""

import hashlib
from datetime import datetime

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlmodel import col

from firmware_schemas.device_api import (
    Envelope,
    InventoryReport,
    ProgressReport,
    Report,
    ReportAnswer,
    ReportBatch,
    ReportReceipt,
    ResultReport,
    TokenReport,
    decode_report,
)
from firmware_schemas.errors import SchemaError
from firmware_schemas.ids import DeviceId
from firmware_schemas.limits import MAX_COMPONENTS
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import HubError, NotAllowed, TrustError
from sdx_hub.domain.signed_claim import verify_claim
from sdx_hub.observing import REPORT_COMMIT, REPORTS, observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.devices import Device, DeviceInventory, DeviceReport, InstalledComponent
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.device_rows import add_event, find_device
from sdx_hub.services.devices.fleet_state import FleetState

MAX_INSTALLED = 8 * MAX_COMPONENTS
_MAX_COUNTER = 2**53 - 1


class _Counter(msgspec.Struct):
    """Just the counter, to name a refused report by."""

    counter: int = 0


class ReportService:
    def __init__(self, database: Database, clock: Clock, fleet: FleetState) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet

    async def receive(self, device_id: DeviceId, batch: ReportBatch) -> ReportAnswer:
        """Take a batch in counter order; one receipt for each envelope, in the same order.

        Raises:
            NotAllowed: The device was revoked in the meantime.
        """
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, device_id)
            if device.state != "accepted":
                raise NotAllowed("This device is not accepted (any more).", f"device_{device.state}")
            receipts = [await self._take(uow, device, envelope) for envelope in batch.envelopes]
            with observed.step(REPORT_COMMIT):
                await uow.commit()
        for receipt in receipts:
            observed.count(REPORTS[receipt.status])
        return ReportAnswer(tuple(receipts))

    async def _take(self, uow: UnitOfWork, device: Device, envelope: Envelope) -> ReportReceipt:
        payload = b""
        try:
            payload = envelope.payload_bytes()
            verify_claim(device.device_key, payload, envelope.signature_bytes())
            report = decode_report(payload)
            _check_bounds(report)
            if report.device_id != device.id:
                raise TrustError("This report is signed for another device.", "wrong_device")
            digest = hashlib.sha256(payload).hexdigest()
            if report.counter <= device.report_counter:
                return await self._known(uow, device, report, digest)
            await self._apply(uow, device, report, envelope)
        except (HubError, SchemaError) as error:
            return ReportReceipt(_counter_of(payload), "refused", error.code, str(error))
        device.report_counter = report.counter
        kind = report.body.__struct_config__.tag
        uow.session.add(
            DeviceReport(
                device_id=device.id,
                counter=report.counter,
                sha256=digest,
                kind=str(kind),
                received_at=self._clock.now(),
            )
        )
        await uow.session.flush()
        return ReportReceipt(report.counter, "accepted")

    async def _known(self, uow: UnitOfWork, device: Device, report: Report, digest: str) -> ReportReceipt:
        earlier = await uow.session.get(DeviceReport, (device.id, report.counter))
        if earlier is not None and earlier.sha256 == digest:
            return ReportReceipt(report.counter, "duplicate")
        raise TrustError(
            f"Counter {report.counter} is not above {device.report_counter}, the last one of this device: a replay.",
            "report_replayed",
        )

    async def _apply(self, uow: UnitOfWork, device: Device, report: Report, envelope: Envelope) -> None:
        now = self._clock.now()
        match report.body:
            case InventoryReport() as inventory:
                await self._inventory(uow, device, inventory, envelope, now)
            case ResultReport() as result:
                await self._result(uow, device, result, now)
            case ProgressReport() as progress:
                add_event(
                    uow,
                    device.id,
                    now,
                    "progress",
                    action=progress.action,
                    state=progress.state,
                    code=progress.code,
                    detail=progress.detail,
                )
            case TokenReport() as token:
                await self._token(uow, device, token, now)

    async def _result(self, uow: UnitOfWork, device: Device, result: ResultReport, now: datetime) -> None:
        # Only the first final result counts: whatever else a device says later, it cannot rewrite how it ended.
        ended = await uow.session.execute(
            update(Action)
            .where(col(Action.id) == result.action, col(Action.device_id) == device.id, col(Action.state) == "open")
            .values(state=result.result, code=result.code, detail=result.detail, finished_at=now)
            .returning(col(Action.id))
        )
        counted = ended.scalar_one_or_none() is not None
        add_event(
            uow,
            device.id,
            now,
            "result" if counted else "late_result",
            action=result.action,
            result=result.result,
            code=result.code,
            detail=result.detail,
            releases=result.releases,
        )
        if counted:
            await uow.audit(
                device.id, "action.finish", result.action, result=result.result, code=result.code, device=device.id
            )

    async def _inventory(
        self, uow: UnitOfWork, device: Device, inventory: InventoryReport, envelope: Envelope, now: datetime
    ) -> None:
        session = uow.session
        part_of = col(InstalledComponent.device_id) == device.id
        before = await session.execute(
            select(
                col(InstalledComponent.name),
                col(InstalledComponent.product),
                col(InstalledComponent.version),
                col(InstalledComponent.sha256),
            ).where(part_of)
        )
        was = {tuple(row) for row in before}
        now_is = {(part.name, part.product, part.version, part.sha256) for part in inventory.components}
        await session.execute(delete(InstalledComponent).where(part_of))
        if inventory.components:
            rows = [{"device_id": device.id, **msgspec.structs.asdict(part)} for part in inventory.components]
            await session.execute(insert(InstalledComponent), rows)
        stored = await session.get(DeviceInventory, device.id)
        if stored is None:
            session.add(
                DeviceInventory(
                    device_id=device.id, payload=envelope.payload, signature=envelope.signature, received_at=now
                )
            )
            device.has_inventory = True  # The poll stops asking for one.
            device.change_seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
            uow.after_commit(self._fleet.catch_up)
        else:
            stored.payload, stored.signature, stored.received_at = envelope.payload, envelope.signature, now
        device.agent_version = inventory.agent_version
        if was != now_is:
            running = {f"{part.product}/{part.name}": part.version for part in inventory.components}
            add_event(uow, device.id, now, "inventory", running=running)

    async def _token(self, uow: UnitOfWork, device: Device, token: TokenReport, now: datetime) -> None:
        if token.token_sha256 in {device.token_sha256, device.next_token_sha256}:
            return
        taken = select(col(Device.id)).where(
            (col(Device.token_sha256) == token.token_sha256) | (col(Device.next_token_sha256) == token.token_sha256)
        )
        if await uow.session.scalar(taken) is not None:
            raise TrustError("This poll token belongs to another device.", "token_taken")
        device.next_token_sha256 = token.token_sha256
        device.change_seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        add_event(uow, device.id, now, "token_announced")
        uow.after_commit(self._fleet.catch_up)


def _check_bounds(report: Report) -> None:
    """Check what the types of the contract leave open, before anything reaches the database."""
    body = report.body
    if not isinstance(body, InventoryReport):
        return
    names = {part.name for part in body.components}
    if len(names) != len(body.components) or len(names) > MAX_INSTALLED:
        raise SchemaError(f"An inventory names a component twice, or more than {MAX_INSTALLED}.")
    numbers = [part.release_counter for part in body.components] + list(body.floors.values())
    if any(not 0 <= number <= _MAX_COUNTER for number in numbers) or len(body.floors) > MAX_INSTALLED:
        raise SchemaError("A release counter of the inventory is out of bounds.")
    if len(body.agent_version) > 64:
        raise SchemaError("The agent's version has more than 64 characters.")


def _counter_of(payload: bytes) -> int:
    try:
        counter = msgspec.json.decode(payload, type=_Counter).counter
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return counter if 0 <= counter <= _MAX_COUNTER else 0

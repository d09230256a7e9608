"""Signed reports: verified over their exact bytes, guarded against replay, acknowledged only after the commit.

For each envelope, in this order:

1. The signature is the device's, over these bytes.
2. The payload follows the contract, and names the device whose poll token brought it.
3. The counter is larger than every accepted one. The same counter with the same bytes is a duplicate, which is an
   acknowledgement too: the first answer was lost. Anything else is a replay.
4. What it says takes effect.

Devices that report at the same time share one transaction, because there is one writer at a time and each commit waits
for the disk. The first two steps are done before it. Where one report cannot be stored, the transaction is done again
with a savepoint around each, so that it takes nothing of the others with it: that costs twice the work, and is rare.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import structlog
from msgspec import Struct
from sqlalchemy import select
from sqlmodel import col

from firmware_schemas.device_api import (
    Envelope,
    InventoryReport,
    Report,
    ReportAnswer,
    ReportBatch,
    ReportReceipt,
    decode_report,
)
from firmware_schemas.errors import SchemaError
from firmware_schemas.ids import DeviceId
from firmware_schemas.limits import MAX_COMPONENTS
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import HubError, NotAllowed, NotFound, TrustError, Unavailable
from sdx_hub.domain.signed_claim import verify_claim
from sdx_hub.observing import REPORT_COMMIT, REPORTS, observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.failures import translated
from sdx_hub.persistence.tables.devices import Device, DeviceReport
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.batching import Batcher
from sdx_hub.services.devices import report_effects
from sdx_hub.services.devices.fleet_state import FleetState

MAX_INSTALLED = 8 * MAX_COMPONENTS
MAX_DEVICES = 200
"""In one transaction: others who want to write wait for some tenths of a second then."""
_MAX_COUNTER = 2**53 - 1
_log = structlog.get_logger(__name__)


class _Counter(Struct):
    """Just the counter, to name a refused report by."""

    counter: int = 0


class _Verified(Struct, frozen=True):
    """A report that its device has signed, in the envelope that it came in."""

    report: Report
    envelope: Envelope
    sha256: str


class _Arrival(Struct, frozen=True, eq=False):
    """One request: each is itself, also where two are alike."""

    device_id: DeviceId
    opened: Sequence[_Verified | ReportReceipt]


_Store = Callable[[UnitOfWork, Device, _Verified], Awaitable[ReportReceipt | Exception]]


class ReportService:
    def __init__(self, database: Database, clock: Clock, fleet: FleetState) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet
        self._keys: Batcher[DeviceId, str] = Batcher(self._read_keys, MAX_DEVICES)
        self._arrivals: Batcher[_Arrival, ReportAnswer] = Batcher(self._take_together, MAX_DEVICES)

    @property
    def waiting(self) -> int:
        """Requests that wait for the next transaction."""
        return self._arrivals.waiting

    async def receive(self, device_id: DeviceId, batch: ReportBatch) -> ReportAnswer:
        """Take a batch in counter order; one receipt for each envelope, in the same order.

        Raises:
            NotAllowed: The device was revoked in the meantime.
        """
        # A device's id is made of its key, so this key stays right until the transaction.
        key = await self._keys.ask(device_id)
        opened = [_opened(device_id, key, envelope) for envelope in batch.envelopes]
        answer = await self._arrivals.ask(_Arrival(device_id, opened))
        for receipt in answer.receipts:
            observed.count(REPORTS[receipt.status])
        return answer

    async def _read_keys(self, ids: Sequence[DeviceId]) -> Mapping[DeviceId, str | Exception]:
        async with self._database.reading() as session:
            rows = await session.execute(select(col(Device.id), col(Device.device_key)).where(col(Device.id).in_(ids)))
            keys = {row.id: row.device_key for row in rows}
        return {identity: keys.get(identity) or _unknown(identity) for identity in ids}

    async def _take_together(self, arrivals: Sequence[_Arrival]) -> Mapping[_Arrival, ReportAnswer | Exception]:
        try:
            async with self._database.unit_of_work() as uow:
                # Rows that are added are written together, at the end.
                with uow.session.no_autoflush:
                    answers = await self._take_all(uow, arrivals, self._store)
                await _commit(uow)
        except Unavailable:
            raise
        except Exception:
            async with self._database.unit_of_work() as uow:
                answers = await self._take_all(uow, arrivals, self._store_apart)
                await _commit(uow)
        return answers

    async def _take_all(
        self, uow: UnitOfWork, arrivals: Sequence[_Arrival], store: _Store
    ) -> dict[_Arrival, ReportAnswer | Exception]:
        ids = {arrival.device_id for arrival in arrivals}
        devices = {row.id: row for row in await uow.session.scalars(select(Device).where(col(Device.id).in_(ids)))}
        return {arrival: await self._take(uow, devices.get(arrival.device_id), arrival, store) for arrival in arrivals}

    async def _take(
        self, uow: UnitOfWork, device: Device | None, arrival: _Arrival, store: _Store
    ) -> ReportAnswer | Exception:
        """What one request gets; what is raised concerns all of them."""
        if device is None:
            return _unknown(arrival.device_id)
        if device.state != "accepted":
            return NotAllowed("This device is not accepted (any more).", f"device_{device.state}")
        receipts: list[ReportReceipt] = []
        for opened in arrival.opened:
            if isinstance(opened, ReportReceipt):
                receipts.append(opened)
            elif opened.report.counter <= device.report_counter:
                receipts.append(await self._known(uow, device, opened))
            else:
                outcome = await store(uow, device, opened)
                if isinstance(outcome, Exception):
                    return outcome
                receipts.append(outcome)
        return ReportAnswer(tuple(receipts))

    async def _store_apart(self, uow: UnitOfWork, device: Device, opened: _Verified) -> ReportReceipt | Exception:
        """Store it in a savepoint.

        Raises:
            Unavailable: The whole transaction is of no use any more.
        """
        try:
            with translated():
                async with uow.savepoint():
                    return await self._store(uow, device, opened)
        except Exception as error:
            with translated():
                # What was taken back is still in memory. Also, this shows whether the transaction can go on.
                await uow.session.refresh(device)
            if isinstance(error, Unavailable):
                raise
            if isinstance(error, HubError):
                return ReportReceipt(opened.report.counter, "refused", error.code, str(error))
            _log.exception("report_failed", device=device.id)
            return error

    async def _known(self, uow: UnitOfWork, device: Device, opened: _Verified) -> ReportReceipt:
        counter = opened.report.counter
        await uow.session.flush()  # It may have come earlier in this very transaction.
        earlier = await uow.session.get(DeviceReport, (device.id, counter))
        if earlier is not None and earlier.sha256 == opened.sha256:
            return ReportReceipt(counter, "duplicate")
        return ReportReceipt(
            counter,
            "refused",
            "report_replayed",
            f"Counter {counter} is not above {device.report_counter}, the last one of this device: a replay.",
        )

    async def _store(self, uow: UnitOfWork, device: Device, opened: _Verified) -> ReportReceipt:
        now, report = self._clock.now(), opened.report
        if await report_effects.apply(uow, device, report, opened.envelope, now):
            uow.after_commit(self._fleet.catch_up)
        device.report_counter = report.counter
        uow.session.add(
            DeviceReport(
                device_id=device.id,
                counter=report.counter,
                sha256=opened.sha256,
                kind=str(report.body.__struct_config__.tag),
                received_at=now,
            )
        )
        return ReportReceipt(report.counter, "accepted")


async def _commit(uow: UnitOfWork) -> None:
    with observed.step(REPORT_COMMIT):
        await uow.commit()


def _opened(device_id: DeviceId, key: str, envelope: Envelope) -> _Verified | ReportReceipt:
    """Do everything that needs no transaction."""
    payload = b""
    try:
        payload = envelope.payload_bytes()
        verify_claim(key, payload, envelope.signature_bytes())
        report = decode_report(payload)
        _check_bounds(report)
        if report.device_id != device_id:
            raise TrustError("This report is signed for another device.", "wrong_device")
    except (HubError, SchemaError) as error:
        return ReportReceipt(_counter_of(payload), "refused", error.code, str(error))
    return _Verified(report, envelope, hashlib.sha256(payload).hexdigest())


def _unknown(device_id: DeviceId) -> NotFound:
    return NotFound(f"There is no device {device_id}.", "device_unknown")


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

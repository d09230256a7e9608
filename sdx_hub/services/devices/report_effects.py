"""What each kind of report does, in the transaction that takes it."""

from datetime import datetime

import msgspec
from sqlalchemy import delete, insert, select, update
from sqlmodel import col

from firmware_schemas.device_api import (
    Envelope,
    InventoryReport,
    ProgressReport,
    Report,
    ResultReport,
    TokenReport,
    UsageReport,
)
from sdx_hub.domain.errors import TrustError
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.devices import Device, DeviceInventory, InstalledComponent
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.device_rows import add_event
from sdx_hub.services.outcomes import from_reports
from sdx_hub.services.outcomes.usage import usage


async def apply(uow: UnitOfWork, device: Device, report: Report, envelope: Envelope, now: datetime) -> bool:
    """Let a verified report take effect, and return whether the poll's memory must hear of it.

    Raises:
        TrustError: It says something that cannot be (code `token_taken`).
    """
    match report.body:
        case InventoryReport() as inventory:
            return await _inventory(uow, device, inventory, envelope, now)
        case ResultReport() as result:
            await _result(uow, device, result, now)
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
            await from_reports.progress(uow, device, progress, now)
        case TokenReport() as token:
            return await _token(uow, device, token, now)
        case UsageReport() as body:
            await usage(uow, device, body, now)
    return False


async def _result(uow: UnitOfWork, device: Device, result: ResultReport, now: datetime) -> None:
    # Only the first final result counts: whatever else a device says later, it cannot rewrite how it ended.
    ended = await uow.session.execute(
        update(Action)
        .where(col(Action.id) == result.action, col(Action.device_id) == device.id, col(Action.state) == "open")
        .values(state=result.result, code=result.code, detail=result.detail, finished_at=now)
        .returning(col(Action.id))
        .execution_options(synchronize_session=False)  # No action is in memory here; looking for them costs most.
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
    await from_reports.result(uow, device, result, now)


async def _inventory(
    uow: UnitOfWork, device: Device, inventory: InventoryReport, envelope: Envelope, now: datetime
) -> bool:
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
    device.agent_version = inventory.agent_version
    if was != now_is:
        running = {f"{part.product}/{part.name}": part.version for part in inventory.components}
        add_event(uow, device.id, now, "inventory", running=running)
    stored = await session.get(DeviceInventory, device.id)
    if stored is not None:
        stored.payload, stored.signature, stored.received_at = envelope.payload, envelope.signature, now
        return False
    session.add(
        DeviceInventory(device_id=device.id, payload=envelope.payload, signature=envelope.signature, received_at=now)
    )
    device.has_inventory = True  # The poll stops asking for one.
    device.change_seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
    return True


async def _token(uow: UnitOfWork, device: Device, token: TokenReport, now: datetime) -> bool:
    if token.token_sha256 in {device.token_sha256, device.next_token_sha256}:
        return False
    taken = select(col(Device.id)).where(
        (col(Device.token_sha256) == token.token_sha256) | (col(Device.next_token_sha256) == token.token_sha256)
    )
    if await uow.session.scalar(taken) is not None:
        raise TrustError("This poll token belongs to another device.", "token_taken")
    device.next_token_sha256 = token.token_sha256
    device.change_seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
    add_event(uow, device.id, now, "token_announced")
    return True

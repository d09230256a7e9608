"""What several services do with a device's rows inside their own transaction."""

from datetime import datetime
from typing import Any

from sqlalchemy import case, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas import canonical
from sdx_hub.domain.errors import NotFound
from sdx_hub.persistence.tables.devices import Device, DeviceEvent
from sdx_hub.persistence.unit_of_work import UnitOfWork


async def find_device(session: AsyncSession, name: str) -> Device:
    """Find a device by id or serial; of several with the serial, the one that is not revoked, else the newest.

    Raises:
        NotFound: There is none (code `device_unknown`).
    """
    device = await session.get(Device, name)
    if device is None:
        device = await session.scalar(
            select(Device)
            .where(col(Device.serial) == name)
            .order_by(case((col(Device.state) == "revoked", 1), else_=0), col(Device.number).desc())
            .limit(1)
        )
    if device is None:
        raise NotFound(
            f"There is no device with the id or serial {name[:80]!r}. See: sdx device list.", "device_unknown"
        )
    return device


def add_event(uow: UnitOfWork, device_id: str, time: datetime, kind: str, **detail: Any) -> None:
    """Append a line to the device's timeline."""
    uow.session.add(DeviceEvent(device_id=device_id, time=time, kind=kind, detail=canonical.encode(detail).decode()))

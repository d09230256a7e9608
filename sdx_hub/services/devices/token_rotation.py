"""When a device gets a new poll token: when a person says so, and when the present one is old.

The hub only asks, in its answers to polls. The device makes the new token and announces its hash under its signature
(see `reports`); the first use of it ends the old one (see `fleet_state`).
"""

from datetime import timedelta

from sqlalchemy import func, select, update
from sqlmodel import col

from firmware_schemas.ids import DeviceId
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER
from sdx_hub.services.devices.device_rows import add_event, find_device
from sdx_hub.services.devices.fleet_state import FleetState

BATCH = 1_000
"""Devices that are asked in one round: a fleet that enrolled on one day does not rotate in one minute."""


class TokenRotation:
    """Asks devices for new poll tokens.

    Args:
        database: With the tables.
        clock: Tells how old a token is.
        fleet: Passes the wish on at the next poll.
        life: A token that is older is replaced.
    """

    def __init__(self, database: Database, clock: Clock, fleet: FleetState, life: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet
        self._life = life

    async def ask(self, principal: Principal, name: str) -> DeviceId:
        """Ask one device for a new token; asking again changes nothing.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device.
            ConflictError: It is not accepted (codes `device_pending`, `device_revoked`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, name)
            if device.state != "accepted":
                raise ConflictError(
                    f"{device.serial} is {device.state}: it has no token that counts.", f"device_{device.state}"
                )
            if not device.rotation_wanted:
                device.rotation_wanted = True
                device.change_seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
                add_event(uow, device.id, self._clock.now(), "rotation_wanted", by=principal.name)
                await uow.audit(principal.name, "device.rotate_token", device.id, serial=device.serial)
                uow.after_commit(self._fleet.catch_up)
                await uow.commit()
        return DeviceId(device.id)

    async def ask_old(self) -> int:
        """Ask the devices whose token is older than its life, the oldest first, `BATCH` at the most.

        Returns:
            How many were asked.
        """
        since = func.coalesce(col(Device.rotated_at), col(Device.created_at))
        old = (
            select(col(Device.id))
            .where(
                col(Device.state) == "accepted",
                col(Device.rotation_wanted).is_(False),
                since < self._clock.now() - self._life,
            )
            .order_by(since)
            .limit(BATCH)
        )
        async with self._database.reading() as session:
            if await session.scalar(old.limit(1)) is None:
                return 0
        async with self._database.unit_of_work() as uow:
            asked = await uow.session.scalars(
                update(Device)
                .where(col(Device.id).in_(old))
                .values(rotation_wanted=True, change_seq=await uow.next_number(DEVICE_CHANGE_COUNTER))
                .returning(col(Device.id))
            )
            count = len(asked.all())
            uow.after_commit(self._fleet.catch_up)
            await uow.commit()
        return count

"""Pins: a device that stays on what it runs, whatever rolls out, until a person takes the pin away."""

from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import DevicePin, Rollout, RolloutDevice
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.devices.device_rows import add_event, find_device
from sdx_hub.services.outcomes import log

MAX_REASON_CHARS: Final = 2_000
_WITH_MEMBERS: Final = ("running", "paused", "halted")
"""Rollouts whose queued members may yet be offered something. One that is prepared still looks when it offers."""


class PinService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def pin(self, principal: Principal, name: str, reason: str) -> None:
        """Keep a device on what it runs. Where it is queued in a rollout it is left out; what is under way goes on.

        A device that is pinned already gets the new reason.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device (code `device_unknown`).
            BadInput: There is no reason, or a very long one (code `invalid_reason`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        if not 1 <= len(reason.strip()) <= MAX_REASON_CHARS:
            raise BadInput(f"Say why, in 1 to {MAX_REASON_CHARS} characters.", "invalid_reason")
        async with self._database.unit_of_work() as uow:
            device, now = await find_device(uow.session, name), self._clock.now()
            held = await uow.session.get(DevicePin, device.number)
            if held is not None and held.reason == reason.strip():
                return
            pin = held or DevicePin(number=device.number, reason="", pinned_by="", pinned_at=now)
            pin.reason, pin.pinned_by, pin.pinned_at = reason.strip(), principal.name, now
            uow.session.add(pin)
            await self._move(uow.session, device.number, "queued", "pinned")
            await self._note(uow, principal, device.id, "pinned", "device.pin", reason=pin.reason)

    async def unpin(self, principal: Principal, name: str) -> None:
        """Let a device have releases again. Where it was left out of a rollout that goes on, it is queued again.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such device (code `device_unknown`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        async with self._database.unit_of_work() as uow:
            device = await find_device(uow.session, name)
            held = await uow.session.get(DevicePin, device.number)
            if held is None:
                return
            await uow.session.delete(held)
            await self._move(uow.session, device.number, "pinned", "queued")
            await self._note(uow, principal, device.id, "unpinned", "device.unpin")

    async def _move(self, session: AsyncSession, number: int, was: str, state: str) -> None:
        """A device has one member in each rollout, at the most."""
        code = "pinned" if state == "pinned" else "unpinned"
        await log.move(
            session,
            select(*log.entry(self._clock.now(), state, code))
            .join(Rollout, col(Rollout.number) == col(RolloutDevice.rollout))
            .where(
                col(Rollout.state).in_(_WITH_MEMBERS),
                col(RolloutDevice.number) == number,
                col(RolloutDevice.state) == was,
            ),
        )

    async def _note(
        self, uow: UnitOfWork, principal: Principal, device_id: str, kind: str, action: str, **detail: str
    ) -> None:
        add_event(uow, device_id, self._clock.now(), kind, by=principal.name, **detail)
        await uow.audit(principal.name, action, device_id, **detail)
        await uow.commit()

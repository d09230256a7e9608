"""Why a rollout, one of its waves or one of its devices is where it is: the rows, for `domain.rollout.explaining`."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.answers import Answer
from sdx_hub.domain.errors import NotFound
from sdx_hub.domain.rollout.explaining import of_rollout, of_wave
from sdx_hub.domain.rollout.explaining_members import of_member
from sdx_hub.domain.rollout.left_out import of_left_out
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice, RolloutWave
from sdx_hub.services.devices.device_rows import find_device
from sdx_hub.services.rollouts.records.rollout_rows import find_rollout, rollout_id
from sdx_hub.services.rollouts.showing.memberships import membership
from sdx_hub.services.rollouts.showing.outsiders import left_out
from sdx_hub.services.rollouts.showing.standings import count_members, standing_now, wave_standing

_WITHOUT_MEMBERS = ("approval", "preparing")
_MOST = 2**31
"""Above any number of a wave, and within what both databases take for one."""


class ExplainingService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def why(self, principal: Principal, name: str, *, wave: int | None, device: str | None) -> Answer:
        """Say why a rollout is where it is, or one of its waves or devices.

        Args:
            principal: Who asks.
            name: `ro-3`.
            wave: Its number.
            device: Id or serial; goes before the wave.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such rollout, wave or device (codes `rollout_unknown`, `wave_unknown`,
                `device_unknown`).
        """
        principal.require(Permission.READ)
        now = self._clock.now()
        async with self._database.reading() as session:
            row = await find_rollout(session, name)
            if device is not None:
                return await _of_device(session, row, device, now)
            standing = await standing_now(session, row, now)
            if wave is None:
                return of_rollout(standing)
            found = await session.get(RolloutWave, (row.number, wave)) if 0 < wave < _MOST else None
            if found is None:
                raise NotFound(f"{rollout_id(row.number)} has no wave {wave}.", "wave_unknown")
            return of_wave(standing, wave_standing(found, await count_members(session, row.number, wave)))


async def _of_device(session: AsyncSession, row: Rollout, name: str, now: datetime) -> Answer:
    device = await find_device(session, name)
    member = await session.get(RolloutDevice, (row.number, device.number))
    if member is not None:
        return of_member(await membership(session, member, now), now)
    if row.state in _WITHOUT_MEMBERS:
        return of_rollout(await standing_now(session, row, now))
    return of_left_out(await left_out(session, row, device.number, now), device.serial)

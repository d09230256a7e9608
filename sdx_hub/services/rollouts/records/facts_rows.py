"""What a decision is made of, out of the database: by a few statements that do not grow with the number of members."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.rollout.facts import Accepted, Control, Critical, Facts, Tally, WaveFacts
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.states import BAD
from sdx_hub.persistence.tables.devices import Device, DeviceSeen
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import (
    BAD_ROWS,
    CONTROL_ROWS,
    Rollout,
    RolloutDevice,
    RolloutOutcome,
    RolloutStratum,
    RolloutTally,
    RolloutWave,
)
from sdx_hub.services.rollouts.records.rollout_rows import order_of

CONTROL_SAMPLE: Final = 1_000
"""Members that are looked at to learn how many go silent without any offer."""
_WAVE: Final = ("wave", "label", "size", "opened_at", "closed_at", "last_ended_at", "flights", "running_s")
_TALLY: Final = ("wave", "stratum", "state", "devices")


async def load_facts(session: AsyncSession, row: Rollout, now: datetime) -> Facts:
    """Load the facts of a rollout whose tallies are counted up to `row.outcomes_through`."""
    order = order_of(row)
    waves = await _waves(session, row)
    tallies = await _tallies(session, row)
    failures = any(tally.state in BAD for tally in tallies)
    opened = next((wave.opened_at for wave in waves if wave.wave == row.wave), None)
    # Without failures there is nothing that the control could explain.
    compares = failures and order.gate.control and opened is not None
    return Facts(
        now=now,
        order=order,
        state=row.state,
        wave=row.wave,
        release_state=await _release_state(session, row),
        waves=waves,
        strata=await _strata(session, row),
        tallies=tallies,
        accepted=msgspec.json.decode(row.accepted, type=Accepted),
        critical=await _critical(session, row, order) if failures else Critical(),
        control=await _control(session, row, order, opened, now) if compares and opened else Control(),
        outcomes_through=row.outcomes_through,
    )


async def _release_state(session: AsyncSession, row: Rollout) -> str:
    return str(await session.scalar(select(col(Release.state)).where(col(Release.id) == row.release_id)))


async def _waves(session: AsyncSession, row: Rollout) -> tuple[WaveFacts, ...]:
    columns = [getattr(RolloutWave, name) for name in _WAVE]
    found = await session.execute(
        select(*columns).where(col(RolloutWave.rollout) == row.number).order_by(col(RolloutWave.wave))
    )
    return tuple(WaveFacts(*wave) for wave in found)


async def _strata(session: AsyncSession, row: Rollout) -> dict[int, str]:
    found = await session.execute(
        select(col(RolloutStratum.stratum), col(RolloutStratum.name))
        .where(col(RolloutStratum.rollout) == row.number)
        .order_by(col(RolloutStratum.stratum))
    )
    return dict(found.all())


async def _tallies(session: AsyncSession, row: Rollout) -> tuple[Tally, ...]:
    columns = [getattr(RolloutTally, name) for name in _TALLY]
    found = await session.execute(
        select(*columns)
        .where(col(RolloutTally.rollout) == row.number, col(RolloutTally.devices) > 0)
        .order_by(*columns[:3])
    )
    return tuple(Tally(*tally) for tally in found)


async def _critical(session: AsyncSession, row: Rollout, order: Order) -> Critical:
    """Critical outcomes pause at the first one, so there are few."""
    codes = order.gate.critical
    members = select(col(RolloutDevice.number)).where(
        col(RolloutDevice.rollout) == row.number, BAD_ROWS, col(RolloutDevice.code).in_(codes)
    )
    count = await session.scalar(select(func.count()).select_from(members.subquery()))
    if not count:
        return Critical()
    newest = await session.execute(
        select(col(Device.id), col(RolloutOutcome.code))
        .select_from(RolloutOutcome)
        .join(Device, col(Device.number) == col(RolloutOutcome.number))
        .where(
            col(RolloutOutcome.rollout) == row.number,
            col(RolloutOutcome.number).in_(members),
            col(RolloutOutcome.code).in_(codes),
        )
        .order_by(col(RolloutOutcome.id).desc())
        .limit(1)
    )
    return Critical(count, *newest.one())


async def _control(session: AsyncSession, row: Rollout, order: Order, opened: datetime, now: datetime) -> Control:
    """Those that were heard when the wave opened, or since, and those of them that are not heard any more."""
    silent_s = order.silent_after_s or 0
    sample = (
        select(col(RolloutDevice.number))
        .where(
            col(RolloutDevice.rollout) == row.number,
            col(RolloutDevice.wave) > row.wave,
            col(RolloutDevice.state) == "queued",
            CONTROL_ROWS,
        )
        .limit(CONTROL_SAMPLE)
    )
    seen = col(DeviceSeen.last_seen_s)
    counted = await session.execute(
        select(func.count(), func.count().filter(seen <= int(now.timestamp()) - silent_s)).where(
            col(DeviceSeen.number).in_(sample), seen >= int(opened.timestamp()) - silent_s
        )
    )
    return Control(*counted.one())

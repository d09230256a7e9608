"""How much a device was used, and what of it counts for the soak of a wave: what came after the device committed."""

from datetime import datetime

from sqlalchemy import insert, select, update
from sqlmodel import col

from firmware_schemas.device_api import UsageReport
from sdx_hub.domain.rollout.states import ACTIVE, GOOD
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import TOUCHED_ROWS, DeviceUsage, Rollout, RolloutDevice, RolloutWave
from sdx_hub.persistence.unit_of_work import UnitOfWork


async def usage(uow: UnitOfWork, device: Device, body: UsageReport, now: datetime) -> None:
    """Take a device's totals, and add what is new of them to the waves that it soaks in.

    Totals only grow: a smaller one (a craft whose flight computer was replaced) is ignored. What a device says for the
    first time is no use since any commit, but where its use is counted from.
    """
    session = uow.session
    mine = col(DeviceUsage.number) == device.number
    known = (
        await session.execute(select(col(DeviceUsage.flights), col(DeviceUsage.running_s)).where(mine))
    ).one_or_none()
    if known is None:
        row = {"number": device.number, "flights": body.flights, "running_s": body.running_s, "reported_at": now}
        await session.execute(insert(DeviceUsage).values(row))
        await _count_from_here(uow, device, body)
        return
    flights, running_s = max(known.flights, body.flights), max(known.running_s, body.running_s)
    await session.execute(
        update(DeviceUsage)
        .where(mine)
        .values(flights=flights, running_s=running_s, reported_at=now)
        .execution_options(synchronize_session=False)
    )
    if (flights, running_s) == (known.flights, known.running_s):
        return
    member, wave = RolloutDevice, RolloutWave
    # Where something else is assigned by now, it is not used with that release any more.
    soaking = (
        select(col(member.rollout), col(member.wave), col(member.flights), col(member.running_s))
        .join(Rollout, col(Rollout.number) == col(member.rollout))
        .join(Assignment, col(Assignment.release_id) == col(Rollout.release_id))
        .where(
            col(member.number) == device.number,
            TOUCHED_ROWS,
            col(member.state).in_(GOOD),
            col(Rollout.state).in_(ACTIVE),
            col(Assignment.device_id) == device.id,
        )
    )
    for at_commit in (await session.execute(soaking)).all():
        await session.execute(
            update(wave)
            .where(col(wave.rollout) == at_commit.rollout, col(wave.wave) == at_commit.wave)
            .values(
                flights=col(wave.flights) + max(flights - max(known.flights, at_commit.flights), 0),
                running_s=col(wave.running_s) + max(running_s - max(known.running_s, at_commit.running_s), 0),
            )
            .execution_options(synchronize_session=False)
        )


async def _count_from_here(uow: UnitOfWork, device: Device, body: UsageReport) -> None:
    await uow.session.execute(
        update(RolloutDevice)
        .where(col(RolloutDevice.number) == device.number, TOUCHED_ROWS, col(RolloutDevice.state).in_(GOOD))
        .values(flights=body.flights, running_s=body.running_s)
        .execution_options(synchronize_session=False)
    )

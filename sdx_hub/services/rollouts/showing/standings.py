"""From rows to where a rollout and its members are (`domain.rollout.standing`)."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Decision
from sdx_hub.domain.rollout.standing import Member, Standing, WaveStanding
from sdx_hub.domain.rollout.states import ENDED
from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import (
    Rollout,
    RolloutDevice,
    RolloutOutcome,
    RolloutStratum,
    RolloutTally,
    RolloutWave,
)
from sdx_hub.services.rollouts.records.facts_rows import load_facts
from sdx_hub.services.rollouts.records.rollout_rows import order_of, rollout_id

K = TypeVar("K", int, str)
_UNDECIDED = ("approval", "preparing")


def standing(row: Rollout, members: dict[str, int], wave_count: int, decision: Decision | None = None) -> Standing:
    """A rollout.

    Args:
        row: Its row.
        members: Counted by state.
        wave_count: How many waves it has.
        decision: What its engine would do now.
    """
    return Standing(
        id=rollout_id(row.number),
        release=row.release_id,
        product=row.product,
        state=row.state,
        code=row.code,
        reason=row.reason,
        wave=row.wave,
        wave_count=wave_count,
        members=members,
        priority=row.priority,
        urgent=row.urgent,
        silent_after_s=order_of(row).silent_after_s or 0,
        waits_for=decision.waits_for if decision else "",
        sentence=decision.sentence if decision else "",
        created_by=row.created_by,
        approved_by=row.approved_by,
    )


def wave_standing(row: RolloutWave, members: dict[str, int]) -> WaveStanding:
    """A wave, with its members counted by state."""
    return WaveStanding(
        wave=row.wave,
        label=row.label,
        size=row.size,
        members=members,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        last_ended_at=row.last_ended_at,
        flights=row.flights,
        running_s=row.running_s,
    )


def counted(pairs: Iterable[tuple[K, int]]) -> dict[K, int]:
    """Devices by name, added up and sorted."""
    found: Counter[K] = Counter()
    for name, devices in pairs:
        found[name] += devices
    return dict(sorted(found.items()))


async def decision_now(session: AsyncSession, row: Rollout, now: datetime) -> Decision | None:
    """What the engine would do now; None while there are no members yet."""
    return None if row.state in _UNDECIDED else decide(await load_facts(session, row, now))


async def standing_now(session: AsyncSession, row: Rollout, now: datetime) -> Standing:
    """A rollout with everything that explains it."""
    waves = await session.scalar(select(func.count()).where(col(RolloutWave.rollout) == row.number))
    decision = None if row.state in ENDED else await decision_now(session, row, now)
    return standing(row, await count_members(session, row.number), waves or 0, decision)


async def count_members(session: AsyncSession, rollout: int, wave: int | None = None) -> dict[str, int]:
    """Members of a rollout, or of one of its waves, by state; as of the last tick."""
    state, devices = col(RolloutTally.state), col(RolloutTally.devices)
    query = select(state, func.sum(devices)).where(col(RolloutTally.rollout) == rollout, devices > 0).group_by(state)
    if wave is not None:
        query = query.where(col(RolloutTally.wave) == wave)
    return counted((name, int(count)) for name, count in await session.execute(query))


async def members(session: AsyncSession, rollout: int, rows: Sequence[RolloutDevice]) -> list[Member]:
    """Members of one rollout, in their order; a fixed number of queries for all of them."""
    numbers = [row.number for row in rows]
    named = await session.execute(
        select(col(Device.number), col(Device.id), col(Device.serial)).where(
            among(session, col(Device.number), numbers)
        )
    )
    names = {number: (identity, serial) for number, identity, serial in named}
    strata = dict(
        (
            await session.execute(
                select(col(RolloutStratum.stratum), col(RolloutStratum.name)).where(
                    col(RolloutStratum.rollout) == rollout
                )
            )
        ).all()
    )
    outcomes = await session.execute(
        select(col(RolloutOutcome.number), col(RolloutOutcome.detail), col(RolloutOutcome.time))
        .where(col(RolloutOutcome.rollout) == rollout, among(session, col(RolloutOutcome.number), numbers))
        .order_by(col(RolloutOutcome.id))
    )
    latest = {number: (detail, time) for number, detail, time in outcomes}
    return [
        Member(
            device=names[row.number][0],
            serial=names[row.number][1],
            wave=row.wave,
            position=row.position,
            stratum=strata.get(row.stratum, ""),
            site=row.site,
            state=row.state,
            code=row.code,
            detail=latest.get(row.number, ("", None))[0],
            since=latest.get(row.number, ("", None))[1],
            attempt=row.attempt,
            offered=row.offered,
            previous=row.previous,
        )
        for row in rows
    ]

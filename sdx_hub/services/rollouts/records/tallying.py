"""The tallies: counted on from the outcomes that came since, never by looking at members."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlmodel import col

from sdx_hub.domain.rollout.states import BAD, GOOD
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutOutcome, RolloutTally, RolloutWave
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.outcomes.log import since
from sdx_hub.services.rollouts.records.rollout_rows import tell

TOLD_OF_A_WAVE: Final = 100
"""Failed devices that are told of one by one; the counts tell of the others."""
_ENDED: Final = (*GOOD, *BAD)


async def count_on(uow: UnitOfWork, row: Rollout) -> None:
    """Bring tallies and waves up to the newest outcome, and tell of devices that failed."""
    session, outcome = uow.session, RolloutOutcome
    newer = (col(outcome.rollout) == row.number, since(row.outcomes_through))
    key = (col(outcome.wave), col(outcome.stratum), col(outcome.was), col(outcome.state))
    found: Any = await session.execute(
        select(*key, func.count(), func.max(outcome.time), func.max(outcome.id)).where(*newer).group_by(*key)
    )
    groups = found.all()
    if not groups:
        return
    moves: Counter[tuple[int, int, str]] = Counter()
    ended: dict[int, datetime] = {}
    failed: Counter[int] = Counter()
    for wave, stratum, was, state, devices, last, _ in groups:
        moves[wave, stratum, state] += devices
        if was:
            moves[wave, stratum, was] -= devices
        if state in _ENDED and was != state:
            ended[wave] = max(last, ended.get(wave, last))
        if state in BAD:
            failed[wave] += devices
    told = await _add(uow, row, moves)
    for wave, last in ended.items():
        await session.execute(
            update(RolloutWave)
            .where(col(RolloutWave.rollout) == row.number, col(RolloutWave.wave) == wave)
            .values(last_ended_at=last)
            .execution_options(synchronize_session=False)
        )
    for wave in failed:
        await _tell_failed(uow, row, wave, TOLD_OF_A_WAVE - told[wave])
    row.outcomes_through = max(newest for *_, newest in groups)
    await session.flush()


async def _add(uow: UnitOfWork, row: Rollout, moves: Counter[tuple[int, int, str]]) -> Counter[int]:
    """Move members between tallies; return how many were bad before, by wave."""
    known = await uow.session.scalars(select(RolloutTally).where(col(RolloutTally.rollout) == row.number))
    tallies = {(tally.wave, tally.stratum, tally.state): tally for tally in known}
    bad = _bad_by_wave(tallies.values())
    for (wave, stratum, state), devices in moves.items():
        tally = tallies.get((wave, stratum, state))
        if tally is not None:
            tally.devices += devices
        elif devices:
            uow.session.add(RolloutTally(rollout=row.number, wave=wave, stratum=stratum, state=state, devices=devices))
    return bad


def _bad_by_wave(tallies: Iterable[RolloutTally]) -> Counter[int]:
    bad: Counter[int] = Counter()
    for tally in tallies:
        if tally.state in BAD:
            bad[tally.wave] += tally.devices
    return bad


async def _tell_failed(uow: UnitOfWork, row: Rollout, wave: int, room: int) -> None:
    if room <= 0:
        return
    outcome = RolloutOutcome
    failed = (
        select(col(Device.id), col(outcome.state), col(outcome.code), col(outcome.time))
        .select_from(outcome)
        .join(Device, col(Device.number) == col(outcome.number))
        .where(
            col(outcome.rollout) == row.number,
            since(row.outcomes_through),
            col(outcome.wave) == wave,
            col(outcome.state).in_(BAD),
        )
        .order_by(col(outcome.id))
        .limit(room)
    )
    for identity, state, code, time in await uow.session.execute(failed):
        sentence = f"{identity} ended as {state.replace('_', ' ')}{f' ({code})' if code else ''}."
        tell(uow, row, "rollout.device_failed", time, sentence, device=identity, outcome=state, code=code)

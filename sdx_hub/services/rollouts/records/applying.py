"""Let a decision be so: the rollout's row, its waves, the log."""

from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlmodel import col

from sdx_hub.domain.rollout.facts import Decision, Facts
from sdx_hub.domain.rollout.states import ENDED
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutWave
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.rollouts.records.rollout_rows import ENGINE, log_decision


def changes(row: Rollout, decision: Decision) -> bool:
    """Whether a decision changes anything; only such a one is logged."""
    return (decision.state, decision.wave) != (row.state, row.wave)


async def apply(
    uow: UnitOfWork,
    row: Rollout,
    facts: Facts,
    decision: Decision,
    now: datetime,
    *,
    actor: str = ENGINE,
    command: str = "",
) -> None:
    """Apply a decision of the engine, or of a person who commands it."""
    if decision.state == "finished" or decision.wave != row.wave:
        await _stamp(uow, row.number, row.wave, RolloutWave.closed_at, now)
    if decision.wave != row.wave:
        await _stamp(uow, row.number, decision.wave, RolloutWave.opened_at, now)
    row.state, row.wave, row.code, row.reason = decision.state, decision.wave, decision.code, decision.sentence
    row.ended_at = now if row.state in ENDED else None
    await log_decision(uow, row, actor, facts, decision, now, command)
    await uow.session.flush()


async def _stamp(uow: UnitOfWork, rollout: int, wave: int, when: Any, now: datetime) -> None:
    """Say when a wave was opened or closed, unless it was already: a person may have closed it."""
    await uow.session.execute(
        update(RolloutWave)
        .where(col(RolloutWave.rollout) == rollout, col(RolloutWave.wave) == wave, col(when).is_(None))
        .values({when: now})
        .execution_options(synchronize_session=False)
    )

"""What earlier rollouts of this hub have shown."""

from statistics import median
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.persistence.tables.rollouts import RolloutOutcome

ENOUGH: Final = 5
"""Devices that a median is made of at the least."""
_OUTCOMES: Final = 20_000
"""The newest ones that are looked at."""


async def median_update_s(session: AsyncSession) -> float | None:
    """Seconds from the offer to the commit, of devices that committed lately; None where there were too few."""
    outcome = RolloutOutcome
    newest = (
        select(col(outcome.rollout), col(outcome.number), col(outcome.state), col(outcome.time))
        .order_by(col(outcome.id).desc())
        .limit(_OUTCOMES)
    )
    offered, took_s = {}, []
    for rollout, number, state, time in reversed((await session.execute(newest)).all()):
        if state == "offered":
            offered[rollout, number] = time
        elif state == "committed" and (rollout, number) in offered:
            took_s.append((time - offered.pop((rollout, number))).total_seconds())
    return median(took_s) if len(took_s) >= ENOUGH else None

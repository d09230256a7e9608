"""Figures of all rollouts, for `/metrics`: out of the tallies, so that they cost the same for a million members."""

from msgspec import Struct
from sqlalchemy import func, select
from sqlmodel import col

from sdx_hub.domain.rollout.states import ACTIVE, IN_FLIGHT, ROLLOUT_STATES
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutTally


class RolloutFigures(Struct, frozen=True):
    """Counts.

    Attributes:
        rollouts: By state.
        in_flight: Members under way on their devices, in all rollouts together.
    """

    rollouts: dict[str, int]
    in_flight: int


async def rollout_figures(database: Database) -> RolloutFigures:
    """Count."""
    by_state = select(col(Rollout.state), func.count()).group_by(col(Rollout.state))
    in_flight = (
        select(func.sum(RolloutTally.devices))
        .join(Rollout, col(Rollout.number) == col(RolloutTally.rollout))
        .where(col(Rollout.state).in_(ACTIVE), col(RolloutTally.state).in_(IN_FLIGHT))
    )
    async with database.reading() as session:
        found = {state: int(count) for state, count in await session.execute(by_state)}
        under_way = int(await session.scalar(in_flight) or 0)
    return RolloutFigures(dict.fromkeys(ROLLOUT_STATES, 0) | found, under_way)

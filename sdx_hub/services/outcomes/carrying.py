"""Other rollouts' offers and ways back on devices whose desired state was changed for the sake of one rollout."""

from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.rollout.states import IN_FLIGHT
from sdx_hub.persistence.number_lists import found_in
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import TOUCHED_ROWS, RolloutDevice

_OFFER_OPEN: Final = (*IN_FLIGHT, "off_duty", "silent", "lost")
_WAY_BACK_OPEN: Final = ("withdrawn", "reverting")


async def carry_over(session: AsyncSession, seq: int, rollout: int, step: int = 1) -> None:
    """Let them go on under the new action: it holds their releases as well, and the old one gets no result any more.

    Args:
        session: Of the unit of work that marked devices with `seq`, each of them once.
        seq: See `desired_state.mark`.
        rollout: The one that is the reason; its members are left alone.
        step: What their desired state was counted up by.
    """
    version: Any = (
        select(col(Device.desired_version)).where(col(Device.number) == col(RolloutDevice.number)).scalar_subquery()
    )
    numbers = select(col(Device.number)).where(col(Device.change_seq) == seq)
    marked = found_in(session, col(RolloutDevice.number), numbers)
    for column, states in (("offer_version", _OFFER_OPEN), ("back_version", _WAY_BACK_OPEN)):
        await session.execute(
            update(RolloutDevice)
            .where(
                marked,
                TOUCHED_ROWS,
                col(RolloutDevice.rollout) != rollout,
                col(RolloutDevice.state).in_(states),
                getattr(RolloutDevice, column) == version - step,
            )
            .values({column: version})
            .execution_options(synchronize_session=False)
        )

"""Releases that failed on a device and are assigned to it yet.

A device refuses a whole desired state where it knows a part of it to be bad. So whoever gives it a new one takes that
part away in the same go, whatever product it is of.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.persistence.number_lists import found_in
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import TOUCHED_ROWS, Rollout, RolloutDevice
from sdx_hub.services.rollouts.going_back.way_back import BACK, IS_PREVIOUS, PREVIOUS

_FAILED: Final = ("failed", "rolled_back", "refused")


async def put_back_failed(session: AsyncSession, seq: int, product: str, now: datetime) -> None:
    """Take releases of other products from marked devices that failed on them; their members stay what they are.

    Args:
        session: Of the unit of work that marked devices with `seq`, before it opens their actions.
        seq: See `desired_state.mark`.
        product: Whose new assignment is the reason.
        now: UTC.
    """
    members = (
        select(BACK)
        .select_from(Device)
        .join(RolloutDevice, col(RolloutDevice.number) == col(Device.number))
        .join(Rollout, col(Rollout.number) == col(RolloutDevice.rollout))
        .outerjoin(PREVIOUS, IS_PREVIOUS)
        .where(
            col(Device.id) == col(Assignment.device_id),
            col(Rollout.product) == col(Assignment.product),
            col(RolloutDevice.offered) == col(Assignment.release_id),
            col(RolloutDevice.state).in_(_FAILED),
            TOUCHED_ROWS,
        )
        .correlate(Assignment)
    )
    marked = select(col(Device.id)).where(col(Device.change_seq) == seq)
    of_marked = found_in(session, col(Assignment.device_id), marked)
    failed = and_(of_marked, col(Assignment.product) != product, members.exists())
    # It may have failed in several rollouts of the same release; only the first of them has something before it.
    back: Any = members.with_only_columns(func.max(BACK), maintain_column_froms=True).scalar_subquery()
    for change in (
        delete(Assignment).where(failed, back.is_(None)),
        update(Assignment).where(failed).values(release_id=back, assigned_at=now),
    ):
        await session.execute(change.execution_options(synchronize_session=False))

"""From an order to a rollout's row, inside the caller's transaction."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import ConflictError
from sdx_hub.domain.query import parse
from sdx_hub.domain.rollout.ordering import seed_of
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.waves import Group, parse_waves
from sdx_hub.persistence.tables.rollouts import Rollout
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.devices.selecting import select_devices
from sdx_hub.services.release_lookup import published_release
from sdx_hub.services.rollouts.commands.commanding import decided_by_person, facts_now, spoken
from sdx_hub.services.rollouts.planning.approving import approval_of
from sdx_hub.services.rollouts.records.rollout_rows import log_decision, order_of, rollout_id

ROLLOUT_COUNTER: Final = "rollout"
_GOES_ON: Final = ("approval", "preparing", "running", "paused")


async def check_queries(session: AsyncSession, order: Order, now: datetime) -> None:
    """Return if every query of an order, those of its groups too, names devices.

    Raises:
        BadInput: One does not (see `select_devices`).
    """
    groups = [wave.label for wave in parse_waves(order.waves) if isinstance(wave, Group)]
    for query in (order.query, *groups):
        if query:
            await select_devices(session, query, now)


async def create(uow: UnitOfWork, principal: Principal, order: Order, now: datetime) -> Rollout:
    """Add a rollout: it is prepared, or waits for a second person where one has to approve it.

    Args:
        uow: The transaction.
        principal: Who orders it.
        order: With every default filled in.
        now: UTC.

    Raises:
        NotFound: There is no such release (code `release_not_found`).
        ConflictError: It is not published (`release_not_published`), or goes to the same devices already
            (`rollout_exists`, member `rollout`).
    """
    session = uow.session
    release, _ = await published_release(session, order.release)
    await _refuse_second(session, order)
    approval = approval_of(order, release)
    row = Rollout(
        number=await uow.next_number(ROLLOUT_COUNTER),
        release_id=release.id,
        product=release.product,
        state="approval" if approval.kind == "second_person" else "preparing",
        reason=spoken(principal, f"ordered {release.id}", order.notes),
        spec=msgspec.json.encode(order).decode(),
        seed=seed_of(order),
        priority=order.priority,
        urgent=bool(order.urgent),
        signatures=msgspec.json.encode(approval).decode(),
        created_by=principal.name,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    facts = await facts_now(uow, row, now)
    decision = decided_by_person(facts, row.state, row.reason)
    await log_decision(uow, row, principal.name, facts, decision, now, "create")
    return row


async def _refuse_second(session: AsyncSession, order: Order) -> None:
    """Return if no rollout of this release to these devices goes on."""
    rows = await session.scalars(
        select(Rollout)
        .where(col(Rollout.release_id) == order.release, col(Rollout.state).in_(_GOES_ON))
        .order_by(col(Rollout.number))
    )
    for row in rows:
        if _canonical(order_of(row).query) == _canonical(order.query):
            identity = rollout_id(row.number)
            raise ConflictError(
                f"{identity} brings {order.release} to these devices already, and is {row.state}. Watch that one: "
                f"sdx rollout watch {identity}. Or cancel it first.",
                "rollout_exists",
                rollout=identity,
            )


def _canonical(query: str) -> str:
    return str(parse(query)) if query else ""

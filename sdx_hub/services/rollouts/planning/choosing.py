"""Who is in a rollout, in which wave and at which place: looked up once, in one snapshot of the database.

A plan and a rollout that is prepared ask the same and get the same. There may be a million devices: they are streamed
into arrays, 16 bytes for each, and put in order outside of the event loop.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Select, and_, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from firmware_schemas.release import decode_manifest
from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query.terms import ATTRIBUTE
from sdx_hub.domain.rollout.arranging import NO_GROUP, Chosen, Found, Left, arrange
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.waves import Group, Wave, parse_waves
from sdx_hub.persistence.tables.devices import Device, DeviceAttribute, DeviceEvent, DeviceSeen
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.services.devices.selecting import Condition, select_devices
from sdx_hub.services.devices.suiting import fits
from sdx_hub.services.rollouts.planning.eligibility import ELIGIBLE, eligibility

ABSENT_AFTER: Final = timedelta(days=1)
"""Devices that were not heard for so long come after the others: a first wave of them would tell nothing."""
MAX_KINDS: Final = 250_000
_ROWS: Final = 10_000


async def choose(session: AsyncSession, order: Order, release: Release, *, seed: int, now: datetime) -> Chosen:
    """Find the members of a rollout and put them in order.

    Args:
        session: A reading one; the caller sets its deadline.
        order: With every default filled in.
        release: Its release.
        seed: Of the order within a stratum.
        now: UTC.

    Raises:
        BadInput: The waves or a query are none, or there are too many kinds (code `strata_too_many`).
    """
    waves = parse_waves(order.waves)
    events_through = int(await session.scalar(select(func.max(col(DeviceEvent.id)))) or 0)
    meant = await matching(session, order, release, now)
    rows = await candidates(session, order, release, waves, now)
    found = await _find(session, rows.where(meant))
    found.events_through = events_through
    return await asyncio.to_thread(arrange, found, waves, order.stratify, seed)


async def matching(session: AsyncSession, order: Order, release: Release, now: datetime) -> Condition:
    """Devices that the order means, whether they can get the release or not.

    Raises:
        BadInput: The query is none (see `select_devices`).
    """
    if order.query.strip():
        return (await select_devices(session, order.query, now)).condition
    return and_(col(Device.state) == "accepted", fits(decode_manifest(release.manifest)))


async def candidates(
    session: AsyncSession, order: Order, release: Release, waves: Sequence[Wave], now: datetime
) -> Select[Any]:
    """A row for each device: number, verdict, group, absent, site, hardware, and what it has for each `stratify`."""
    verdict = await eligibility(
        session, release, decode_manifest(release.manifest), downgrade=bool(order.downgrade.strip())
    )
    groups = [wave for wave in waves if isinstance(wave, Group)]
    of_group = [
        ((await select_devices(session, group.label, now)).condition, literal(index))
        for index, group in enumerate(groups)
    ]
    heard_after_s = int((now - ABSENT_AFTER).timestamp())
    named = (*order.stratify, ATTRIBUTE + order.limits.site_attribute)
    held = {
        name: aliased(DeviceAttribute, name=f"attribute_{index}")
        for index, name in enumerate(dict.fromkeys(name for name in named if name.startswith(ATTRIBUTE)))
    }
    site = held[ATTRIBUTE + order.limits.site_attribute]
    rows = select(
        col(Device.number),
        verdict,
        case(*of_group, else_=NO_GROUP) if of_group else literal(NO_GROUP),
        func.coalesce(col(DeviceSeen.last_seen_s), 0) < heard_after_s,
        func.coalesce(col(site.value), ""),
        col(Device.hardware),
        *(col(held[name].value) if name in held else col(Device.hardware) for name in order.stratify),
    )
    rows = rows.outerjoin(DeviceSeen, col(DeviceSeen.number) == col(Device.number))
    for name, table in held.items():
        same = col(table.device_id) == col(Device.id)
        rows = rows.outerjoin(table, and_(same, col(table.name) == name.removeprefix(ATTRIBUTE)))
    return rows


async def _find(session: AsyncSession, rows: Select[Any]) -> Found:
    found = Found()
    if session.get_bind().dialect.name == "postgresql":
        # All rows will be fetched: a plan that has the first ones early takes longer.
        await session.execute(select(func.set_config("cursor_tuple_fraction", "1", True)))
    # Of the connection: the session would look at each row once more.
    stream = await (await session.connection()).stream(rows, execution_options={"yield_per": _ROWS})
    numbers, alike, kinds = found.numbers, found.alike, found.kinds
    async for part in stream.partitions():
        for row in part:
            if row[1] == ELIGIBLE:
                numbers.append(row[0])
                alike.append(kinds.setdefault(row[2:], len(kinds)))
            else:
                found.left_out.setdefault(row[1], Left()).add(row[0])
        if len(kinds) > MAX_KINDS:
            raise BadInput(
                f"There are more than {MAX_KINDS} kinds of devices by their site and by what the waves are balanced "
                "by. Name something coarser in stratify or as the site's attribute.",
                "strata_too_many",
            )
    return found

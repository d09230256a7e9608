"""Why a device is in no wave of a rollout: asked of the rows as they are now."""

from datetime import datetime

from sqlalchemy import false, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.release import decode_manifest
from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.rollout.left_out import NO_MATCH
from sdx_hub.domain.rollout.standing import Outsider
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout
from sdx_hub.services.devices.selecting import select_devices
from sdx_hub.services.rollouts.planning.eligibility import ELIGIBLE, eligibility
from sdx_hub.services.rollouts.records.rollout_rows import order_of, rollout_id


async def left_out(session: AsyncSession, row: Rollout, number: int, now: datetime) -> Outsider:
    """Why a device that is no member could not become one now; the code is empty where it could."""
    order = order_of(row)
    mine, code = col(Device.number) == number, ""
    if order.query:
        try:
            matching = (await select_devices(session, order.query, now)).condition
        except BadInput:
            matching = false()  # A saved filter that it names was deleted since.
        code = "" if await session.scalar(select(col(Device.number)).where(mine, matching)) else NO_MATCH
    if not code:
        release = await session.get_one(Release, row.release_id)
        manifest = decode_manifest(release.manifest)
        allowed = await eligibility(session, release, manifest, downgrade=bool(order.downgrade))
        code = str(await session.scalar(select(allowed).where(mine)))
    return Outsider(rollout_id(row.number), row.release_id, "" if code == ELIGIBLE else code, order.join)

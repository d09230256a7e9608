"""Releases that must not be skipped: a device installs each of them before any newer one."""

from typing import Any

from sqlalchemy import and_, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.release import decode_manifest
from sdx_hub.persistence.tables.devices import Device, InstalledComponent
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.services.devices.suiting import fits


async def next_release(session: AsyncSession, release: Release) -> Any:
    """The release that a device gets on its way to `release`: an expression for each row of `Device`.

    It is the smallest one that must be passed above the one that runs, else `release` itself. A device that runs
    nothing of the product, or is not of the hardware of such a step, goes straight to it.
    """
    steps = await session.scalars(
        select(Release)
        .where(
            col(Release.product) == release.product,
            col(Release.must_pass),
            col(Release.state) == "published",
            col(Release.release_counter) < release.release_counter,
        )
        .order_by(col(Release.release_counter))
    )
    runs = (
        select(func.max(col(InstalledComponent.release_counter)))
        .where(col(InstalledComponent.device_id) == col(Device.id), col(InstalledComponent.product) == release.product)
        .scalar_subquery()
    )
    lines = [(and_(runs < step.release_counter, fits(decode_manifest(step.manifest))), step.id) for step in steps]
    return case(*lines, else_=release.id) if lines else literal(release.id)

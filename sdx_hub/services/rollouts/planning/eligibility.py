"""Whether a release may be offered to a device, and if not, why: one expression for any number of devices.

A device refuses what does not go together (`device_agent.core.plan`); whoever would refuse is left out before. What it
will run of another product after the update is what is assigned to it, else what it reported.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import and_, case, exists, false, func, literal, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.release import Constraint, ReleaseManifest, decode_manifest
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device, InstalledComponent
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import DevicePin
from sdx_hub.services.devices.selecting import Condition
from sdx_hub.services.devices.suiting import fits, holds

ELIGIBLE: Final = "eligible"
SENTENCES: Final = {
    "device_pending": "They are not accepted yet: sdx device accept.",
    "device_revoked": "They were revoked.",
    "wrong_hardware": "The release is not for their hardware.",
    "has_it": "The release is assigned to them already, and did not fail.",
    "newer_runs": "They run a newer release of the product. Order a downgrade with a reason where that is meant.",
    "downgrade_not_allowed": "They run a newer release whose signed manifest allows no way back to this one.",
    "requires_missing": "They would not have what the release requires of another product.",
    "conflicts_with": "They have a release of another product that does not go with this one.",
    "pinned": "They are pinned to what they run: sdx device unpin.",
    "no_wave": "They match, and no wave has a place for them. End with 100%, or with a query for them.",
}
"""Why devices are left out, by code; `no_wave` comes of the waves and not of the device."""
_PUBLISHED: Final = ("published", "yanked")


async def eligibility(session: AsyncSession, release: Release, manifest: ReleaseManifest, *, downgrade: bool) -> Any:
    """`eligible`, or the code of a refusal (`SENTENCES`), for each row of `Device`.

    Args:
        session: To look up releases that refuse this one.
        release: The one that is to be offered.
        manifest: Its manifest.
        downgrade: Devices that run a newer release may get it, where what they run allows that.
    """
    newer = _runs_newer(release, barring=downgrade)
    return case(
        (col(Device.state) != "accepted", literal("device_") + col(Device.state)),
        (not_(fits(manifest)), "wrong_hardware"),
        (holds(release), "has_it"),
        (newer, "downgrade_not_allowed" if downgrade else "newer_runs"),
        (or_(false(), *(not_(_will_match(each)) for each in manifest.requires)), "requires_missing"),
        (await _conflicts(session, manifest), "conflicts_with"),
        (exists().where(col(DevicePin.number) == col(Device.number)), "pinned"),
        else_=ELIGIBLE,
    )


async def stranded_devices(
    session: AsyncSession, meant: Condition, release: Release, manifest: ReleaseManifest, *, downgrade: bool
) -> int:
    """How many of these devices can get the release, and never go back from it to what they run."""
    part = InstalledComponent
    older = exists().where(
        col(part.device_id) == col(Device.id),
        col(part.product) == release.product,
        col(part.release_counter) < manifest.floor,
    )
    verdict = await eligibility(session, release, manifest, downgrade=downgrade)
    stranded = select(func.count()).select_from(Device).where(meant, older, verdict == ELIGIBLE)
    return int(await session.scalar(stranded) or 0)


def _runs_newer(release: Release, *, barring: bool) -> Condition:
    """Whether the device runs a newer release of the product; with `barring` only one that allows no way back."""
    part = InstalledComponent
    newer = exists().where(
        col(part.device_id) == col(Device.id),
        col(part.product) == release.product,
        col(part.release_counter) > release.release_counter,
    )
    if not barring:
        return newer
    allows = exists().where(
        col(Release.product) == release.product,
        col(Release.release_counter) == col(part.release_counter),
        col(Release.state).in_(_PUBLISHED),
        col(Release.revert_counter) <= release.release_counter,
    )
    return newer.where(not_(allows))


async def _conflicts(session: AsyncSession, manifest: ReleaseManifest) -> Condition:
    clashes: list[Condition] = [_will_match(each) for each in manifest.conflicts]
    if opposing := await _opposing(session, manifest):
        held = col(Assignment.device_id) == col(Device.id)
        clashes.append(exists().where(held, col(Assignment.release_id).in_(opposing)))
    return or_(false(), *clashes)


async def _opposing(session: AsyncSession, manifest: ReleaseManifest) -> Sequence[str]:
    """Releases of other products that somebody has, and that would not go with this one."""
    holder = select(col(Assignment.device_id)).where(col(Assignment.release_id) == col(Release.id)).limit(1)
    assigned = holder.scalar_subquery().is_not(None)
    others = select(col(Release.id), col(Release.manifest)).where(col(Release.product) != manifest.product, assigned)
    found = []
    for identity, raw in await session.execute(others.order_by(col(Release.id))):
        other = decode_manifest(raw)
        needs = [each for each in other.requires if each.product == manifest.product]
        clashes = [each for each in other.conflicts if each.product == manifest.product]
        counter = manifest.release_counter
        if not all(each.matches(counter) for each in needs) or any(each.matches(counter) for each in clashes):
            found.append(identity)
    return found


def _will_match(constraint: Constraint) -> Condition:
    """Whether the device will have such a release of the constraint's product."""
    part = InstalledComponent
    assigned = (
        select(col(Release.release_counter))
        .join(Assignment, col(Assignment.release_id) == col(Release.id))
        .where(col(Assignment.device_id) == col(Device.id), col(Assignment.product) == constraint.product)
        .scalar_subquery()
    )
    reported = (
        select(func.max(col(part.release_counter)))
        .where(col(part.device_id) == col(Device.id), col(part.product) == constraint.product)
        .scalar_subquery()
    )
    counter = func.coalesce(assigned, reported)
    return and_(counter.is_not(None), counter.between(constraint.min_counter, constraint.max_counter))

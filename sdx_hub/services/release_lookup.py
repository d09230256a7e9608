"""Releases by their id, inside the caller's transaction: for those who publish them and those who hand them out."""

from sqlalchemy.ext.asyncio import AsyncSession

from firmware_schemas.release import ReleaseManifest, decode_manifest
from sdx_hub.domain.errors import ConflictError, NotFound
from sdx_hub.persistence.tables.releases import Release


async def find_release(session: AsyncSession, identity: str) -> Release:
    """Find a release by its id.

    Raises:
        NotFound: There is none (code `release_not_found`).
    """
    row = await session.get(Release, identity)
    if row is None:
        raise NotFound(f"There is no release {identity[:129]!r}. See: sdx release list.", "release_not_found")
    return row


async def published_release(session: AsyncSession, identity: str) -> tuple[Release, ReleaseManifest]:
    """Find a release that devices may get, and what it is.

    Raises:
        NotFound: There is none (code `release_not_found`).
        ConflictError: It is not published (code `release_not_published`).
    """
    row = await find_release(session, identity)
    if row.state != "published":
        raise ConflictError(f"{identity} is {row.state}, not published: no device gets it.", "release_not_published")
    return row, decode_manifest(row.manifest)

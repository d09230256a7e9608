"""The rows of releases and products, and the rules between them, inside the caller's transaction."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.ids import release_id
from firmware_schemas.release import ReleaseManifest
from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.tables.releases import Product, Release


def refuse_other(row: Release, manifest_raw: bytes, role: str) -> None:
    """Return if the stored release is this one, and may still change its state.

    Raises:
        ConflictError: `product_of_another_team`, `release_exists`, or `release_yanked`.
    """
    if row.team_role != role:
        raise _of_another_team(row.product, row.team_role)
    if row.manifest != manifest_raw:
        raise ConflictError(
            f"{row.id} is here already, with another content. A release never changes: give the new one another "
            "version.",
            "release_exists",
        )
    if row.state == "yanked":
        raise ConflictError(f"{row.id} was yanked: give the release another version.", "release_yanked")


async def claim_product(session: AsyncSession, name: str, role: str) -> None:
    """Make the product the team's; the first proposal decides, for good.

    Raises:
        ConflictError: It is another team's (code `product_of_another_team`).
    """
    product = await session.get(Product, name)
    if product is None:
        session.add(Product(name=name, team_role=role))
        await session.flush()
    elif product.team_role != role:
        raise _of_another_team(name, product.team_role)


def _of_another_team(product: str, role: str) -> ConflictError:
    return ConflictError(f"The product {product} belongs to {role}.", "product_of_another_team")


async def refuse_taken_counter(session: AsyncSession, manifest: ReleaseManifest) -> None:
    """Return if no other release of the product was ever published with this release counter.

    Raises:
        ConflictError: One was (code `release_counter_taken`).
    """
    taken = await session.scalar(
        select(col(Release.id)).where(
            col(Release.product) == manifest.product,
            col(Release.release_counter) == manifest.release_counter,
            col(Release.state).in_(("published", "yanked")),
            col(Release.id) != release_id(manifest.product, manifest.version),
        )
    )
    if taken is not None:
        raise ConflictError(
            f"{taken} has the release counter {manifest.release_counter} already: devices could not tell which is "
            "newer. Build with a larger one.",
            "release_counter_taken",
        )


def new_row(principal: Principal, manifest: ReleaseManifest, raw: bytes, role: str, now: datetime) -> Release:
    """A release at its first signature; not added to the session yet."""
    return Release(
        id=release_id(manifest.product, manifest.version),
        product=manifest.product,
        version=manifest.version,
        team_role=role,
        release_counter=manifest.release_counter,
        revert_counter=manifest.floor,
        must_pass=manifest.must_pass,
        manifest=raw,
        state="waiting",
        created_by=principal.name,
        created_at=now,
    )

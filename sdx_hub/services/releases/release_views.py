"""A release as people see it, with whose signatures it has and whose it still lacks."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from tuf.api.metadata import Metadata, Targets

from firmware_schemas.release import ReleaseManifest, decode_manifest, targets_of
from sdx_hub.domain.errors import NotFound
from sdx_hub.persistence.tables.releases import Proposal, Release
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.publishing.team_metadata import TeamView
from sdx_hub.trust import rotation
from sdx_hub.trust.ceremony import TEAM_PREFIX
from sdx_hub.trust.rotation import SignatureState


class Teams(Protocol):
    """The part of the image repository that releases need."""

    async def team_view(self, session: AsyncSession, role: str) -> TeamView: ...
    async def add_team_version(self, uow: UnitOfWork, role: str, metadata: Metadata[Targets]) -> None: ...


class ReleaseView(Struct, frozen=True):
    """What a list shows.

    Attributes:
        role: The team's role.
        threshold: Signatures that publish it.
        signed_by: Owners of the valid signatures; none while it is outdated, because they are for older metadata.
        missing: Owners of the role's other keys, while it is not published.
    """

    id: str
    product: str
    version: str
    release_counter: int
    state: str
    role: str
    fixes: tuple[str, ...]
    threshold: int
    signed_by: tuple[str, ...]
    missing: tuple[str, ...]
    created_by: str
    created_at: datetime
    published_at: datetime | None
    yanked_at: datetime | None
    yank_reason: str


class ReleaseDetail(ReleaseView, frozen=True, kw_only=True):
    """One release whole.

    Attributes:
        targets: Paths of its targets in the image repository.
    """

    manifest: ReleaseManifest
    targets: tuple[str, ...]


async def views(session: AsyncSession, teams: Teams, releases: Iterable[Release]) -> list[ReleaseView]:
    """What a list shows of these releases, in their order."""
    rows = list(releases)
    open_ids = [row.id for row in rows if row.state in {"waiting", "outdated"}]
    found = await session.scalars(select(Proposal).where(col(Proposal.release_id).in_(open_ids))) if open_ids else ()
    proposals = {proposal.release_id: proposal for proposal in found}
    delegators = {
        role: await _team(session, teams, role) for role in {row.team_role for row in rows if row.id in open_ids}
    }
    return [ReleaseView(**_fields(row, proposals.get(row.id), delegators.get(row.team_role))) for row in rows]


async def detail(session: AsyncSession, teams: Teams, row: Release) -> ReleaseDetail:
    """Everything about one release."""
    waits = row.state in {"waiting", "outdated"}
    proposal = await session.get(Proposal, row.id) if waits else None
    team = await _team(session, teams, row.team_role) if waits else None
    manifest = decode_manifest(row.manifest)
    targets = targets_of(row.team_role.removeprefix(TEAM_PREFIX), manifest)
    return ReleaseDetail(
        **_fields(row, proposal, team), manifest=manifest, targets=tuple(target.path for target in targets)
    )


async def _team(session: AsyncSession, teams: Teams, role: str) -> TeamView | None:
    try:
        return await teams.team_view(session, role)
    except NotFound:
        return None  # The team was dissolved; its waiting releases stay visible.


def _fields(row: Release, proposal: Proposal | None, team: TeamView | None) -> dict[str, Any]:
    threshold, signed_by = row.threshold, tuple(json.loads(row.signed_by))
    missing: tuple[str, ...] = ()
    if row.state in {"waiting", "outdated"} and team is not None:
        state = _signatures(row, proposal, team)
        threshold, signed_by, missing = state.threshold, state.signed, state.missing
    return {
        "id": row.id,
        "product": row.product,
        "version": row.version,
        "release_counter": row.release_counter,
        "state": row.state,
        "role": row.team_role,
        "fixes": decode_manifest(row.manifest).fixes,
        "threshold": threshold,
        "signed_by": signed_by,
        "missing": missing,
        "created_by": row.created_by,
        "created_at": row.created_at,
        "published_at": row.published_at,
        "yanked_at": row.yanked_at,
        "yank_reason": row.yank_reason,
    }


def _signatures(row: Release, proposal: Proposal | None, team: TeamView) -> SignatureState:
    counts = proposal is not None and row.state == "waiting"
    metadata = rotation.parse(proposal.raw, "The proposal") if proposal and counts else Metadata(team.current)
    return rotation.signature_state("targets", team.delegator, row.team_role, metadata)

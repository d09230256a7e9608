"""Releases: proposed, signed by the team's threshold, published in one transaction, and yanked.

A release is published when the team's next metadata, which adds exactly its targets, has the threshold of valid
signatures. Until then it waits, and says whose signatures are missing. The hub checks what every client will check
again; it has no key that could publish anything by itself.
"""

import json
from datetime import datetime

from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from tuf.api.metadata import Metadata, Targets

from firmware_schemas.ids import parse_release_id
from firmware_schemas.limits import MAX_TEXT_CHARS
from firmware_schemas.release import ReleaseManifest, decode_manifest, encode_manifest
from sdx_hub.adapters.blobs import BlobStore
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.releases import Proposal, Release
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.publishing import signing, team_metadata
from sdx_hub.publishing.team_metadata import TeamView
from sdx_hub.services.devices.assigning import AssigningService
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor
from sdx_hub.services.release_lookup import find_release
from sdx_hub.services.releases.release_rows import (
    claim_product,
    new_row,
    refuse_other,
    refuse_taken_counter,
)
from sdx_hub.services.releases.release_views import ReleaseDetail, ReleaseView, Teams, detail, views
from sdx_hub.services.releases.uploads import UploadService
from sdx_hub.trust import rotation

STATES = frozenset({"waiting", "outdated", "published", "yanked"})


class ReleaseService:
    """Releases of every team.

    Args:
        database: With the tables.
        clock: For times, and for the expiry of metadata.
        teams: The image repository.
        blobs: Where payloads are.
        uploads: Keeps manifests beside them.
        assigning: Takes a yanked release away from devices.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        teams: Teams,
        *,
        blobs: BlobStore,
        uploads: UploadService,
        assigning: AssigningService,
    ) -> None:
        self._database = database
        self._clock = clock
        self._teams = teams
        self._blobs = blobs
        self._uploads = uploads
        self._assigning = assigning

    async def put(
        self, principal: Principal, release_id: str, manifest_raw: bytes, role: str, metadata_raw: bytes
    ) -> ReleaseView:
        """Propose a release, add signatures to its proposal, or publish it: whatever the signatures suffice for.

        The signatures that are stored for the same metadata are taken along. Publishing what is published with the
        same manifest changes nothing.

        Args:
            principal: Who brings it; need not be a signer.
            release_id: `PRODUCT@VERSION`.
            manifest_raw: Canonical JSON.
            role: The team's role.
            metadata_raw: The team's next metadata with at least one valid signature.

        Raises:
            NotAllowed: The role does not publish.
            BadInput, SchemaError: The manifest is malformed, or is not this release's (code `manifest_refused`).
            NotFound: There is no such team (code `role_unknown`).
            ConflictError: `payload_missing` (member `missing`), `release_exists`, `release_yanked`,
                `product_of_another_team`, `release_counter_taken`, `metadata_outdated`, `proposal_differs`.
            TrustError: Nobody has signed (`unsigned`), or the metadata is refused (see `team_metadata.check`).
        """
        principal.require(Permission.PUBLISH)
        manifest = _manifest(release_id, manifest_raw)
        metadata = rotation.parse(metadata_raw, "The metadata")
        await self._require_payloads(manifest)
        await self._uploads.keep(manifest_raw)
        async with self._database.unit_of_work() as uow:
            session, now = uow.session, self._clock.now()
            team = await self._teams.team_view(session, role)
            row = await session.get(Release, release_id)
            if row is not None:
                refuse_other(row, manifest_raw, role)
            if row is None or row.state != "published":
                await claim_product(session, manifest.product, role)
                await refuse_taken_counter(session, manifest)
                proposal = await self._join(session, team, manifest, metadata, now)
                if row is None:
                    row = new_row(principal, manifest, manifest_raw, role, now)
                    session.add(row)
                    await session.flush()
                if proposal.complete:
                    await self._publish(uow, row, proposal, principal, now)
                else:
                    await _propose(uow, row, proposal, principal, now)
                await uow.commit()
            return (await views(session, self._teams, [row]))[0]

    async def list(
        self, principal: Principal, *, product: str | None, state: str | None, cursor: str | None, limit: int
    ) -> Page[ReleaseView]:
        """Releases, the newest first.

        Raises:
            NotAllowed: The role may not read.
            BadInput: The state or the cursor is none (codes `invalid_state`, `invalid_cursor`).
        """
        principal.require(Permission.READ)
        query = select(Release).order_by(col(Release.created_at).desc(), col(Release.id).desc()).limit(limit + 1)
        if product:
            query = query.where(col(Release.product) == product)
        if state is not None:
            if state not in STATES:
                raise BadInput(f"A release is {', '.join(sorted(STATES))}.", "invalid_state")
            query = query.where(col(Release.state) == state)
        if cursor:
            time, identity = decode_cursor(cursor, tuple[datetime, str])
            if time.tzinfo is None:
                raise BadInput("This is no cursor of this list: take it from the Link header.", "invalid_cursor")
            at = col(Release.created_at)
            query = query.where(or_(at < time, and_(at == time, col(Release.id) < identity)))
        async with self._database.reading() as session:
            rows, more = cut((await session.scalars(query)).all(), limit)
            following = encode_cursor((rows[-1].created_at, rows[-1].id)) if more else None
            return Page(await views(session, self._teams, rows), following)

    async def show(self, principal: Principal, release_id: str) -> ReleaseDetail:
        """One release, with its manifest and its targets.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such release (code `release_not_found`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            return await detail(session, self._teams, await find_release(session, release_id))

    async def proposal(self, principal: Principal, release_id: str) -> bytes:
        """The metadata that waits for signatures, with those that it has; of an outdated release, the old one.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such release, or nothing waits (codes `release_not_found`, `proposal_not_found`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            row = await find_release(session, release_id)
            proposal = await session.get(Proposal, row.id)
            if proposal is None:
                raise NotFound(f"{row.id} is {row.state}: nothing waits for a signature.", "proposal_not_found")
            return bytes(proposal.raw)

    async def yank(self, principal: Principal, release_id: str, reason: str) -> ReleaseView:
        """Take a release back: no device is told to install it any more, and it can never be published again.

        It leaves the team's metadata with the team's next release. One that is yanked already stays as it is.

        Raises:
            NotAllowed: The role does not approve.
            NotFound: There is no such release (code `release_not_found`).
            ConflictError: It was never published (code `release_not_published`).
            BadInput: There is no reason, or a very long one (code `invalid_reason`).
        """
        principal.require(Permission.APPROVE)
        if not 1 <= len(reason.strip()) <= MAX_TEXT_CHARS:
            raise BadInput(f"Say why, in 1 to {MAX_TEXT_CHARS} characters.", "invalid_reason")
        async with self._database.unit_of_work() as uow:
            row = await find_release(uow.session, release_id)
            if row.state not in {"published", "yanked"}:
                raise ConflictError(f"{row.id} is {row.state}, not published.", "release_not_published")
            if row.state == "published":
                row.state, row.yanked_at, row.yank_reason = "yanked", self._clock.now(), reason.strip()
                await uow.session.flush()
                await self._assigning.unassign(uow, row.id, principal.name)
                await uow.audit(principal.name, "release.yank", row.id, reason=row.yank_reason)
                await uow.commit()
            return (await views(uow.session, self._teams, [row]))[0]

    async def _require_payloads(self, manifest: ReleaseManifest) -> None:
        lengths = {part.sha256: part.length for part in manifest.components}
        lengths |= {document.sha256: document.length for document in manifest.documents}
        missing = []
        for sha256, length in lengths.items():
            size = await self._blobs.stat(sha256, "identity")
            if size is None or await self._blobs.stat(sha256, "zstd") is None:
                missing.append(sha256)
            elif size != length:
                raise TrustError(
                    f"The payload {sha256[:12]}... has {size} bytes, and the manifest says {length}: build anew.",
                    "payload_digest_mismatch",
                )
        if missing:
            raise ConflictError(
                f"{len(missing)} payloads of this release are not here yet. Upload them first.",
                "payload_missing",
                missing=sorted(missing),
            )

    async def _join(
        self,
        session: AsyncSession,
        team: TeamView,
        manifest: ReleaseManifest,
        metadata: Metadata[Targets],
        now: datetime,
    ) -> team_metadata.Proposal:
        """Check what was brought, together with the signatures that wait here for the same bytes."""
        yanked = set(await session.scalars(select(col(Release.id)).where(col(Release.state) == "yanked")))
        brought = team_metadata.check(team, metadata, manifest, yanked, now)
        if not brought.signed_by:
            raise TrustError("Nobody has signed this: sdx release sign FILE --signer KEY.", "unsigned")
        release_id = f"{manifest.product}@{manifest.version}"
        stored = await session.get(Proposal, release_id)
        if stored is None or stored.base_version != team.current.version:
            return brought
        held = rotation.parse(stored.raw, "The proposal")
        counted = team.delegator.get_verification_result(team.role, held.signed_bytes, held.signatures).signed
        if held.signed_bytes == metadata.signed_bytes:
            valid = {keyid: held.signatures[keyid] for keyid in counted}
            joined: Metadata[Targets] = Metadata(metadata.signed, {**valid, **metadata.signatures})
            return team_metadata.check(team, joined, manifest, yanked, now)
        # Other bytes for the same release: nobody's signature is thrown away without need.
        better = len(brought.signed_by) > len(counted) or counted.keys() <= metadata.signatures.keys()
        if not better and not brought.complete and held.signed.expires > now:
            raise ConflictError(
                f"Other metadata for {release_id} waits here, with {len(counted)} signatures. Sign that one: "
                f"sdx release sign {release_id} --signer KEY.",
                "proposal_differs",
            )
        return brought

    async def _publish(
        self, uow: UnitOfWork, row: Release, proposal: team_metadata.Proposal, principal: Principal, now: datetime
    ) -> None:
        session = uow.session
        await self._teams.add_team_version(uow, proposal.role, proposal.metadata)
        row.state, row.published_at = "published", now
        row.threshold, row.signed_by = proposal.threshold, json.dumps(proposal.signed_by)
        stored = await session.get(Proposal, row.id)
        if stored is not None:
            await session.delete(stored)
        overtaken = await session.scalars(
            update(Release)
            .where(col(Release.team_role) == proposal.role, col(Release.state) == "waiting", col(Release.id) != row.id)
            .values(state="outdated")
            .returning(col(Release.id))
        )
        await uow.audit(
            principal.name,
            "release.publish",
            row.id,
            role=proposal.role,
            metadata_version=proposal.base_version + 1,
            signed_by=list(proposal.signed_by),
            overtaken=sorted(overtaken.all()),
        )


def _manifest(release_id: str, raw: bytes) -> ReleaseManifest:
    parse_release_id(release_id)
    manifest = decode_manifest(raw)
    if f"{manifest.product}@{manifest.version}" != release_id:
        raise BadInput(f"This manifest is not of {release_id[:129]}.", "manifest_refused")
    if encode_manifest(manifest) != raw:
        raise BadInput("The manifest is not in its canonical form: build the release anew.", "manifest_refused")
    return manifest


async def _propose(
    uow: UnitOfWork, row: Release, proposal: team_metadata.Proposal, principal: Principal, now: datetime
) -> None:
    raw = signing.encode(proposal.metadata)
    stored = await uow.session.get(Proposal, row.id)
    if stored is None:
        stored = Proposal(release_id=row.id, role=proposal.role, base_version=0, raw=b"", updated_at=now)
        uow.session.add(stored)
    elif stored.raw == raw and row.state == "waiting":
        return  # The same again: its answer was lost.
    stored.base_version, stored.raw, stored.updated_at = proposal.base_version, raw, now
    row.state = "waiting"
    await uow.audit(
        principal.name,
        "release.propose",
        row.id,
        role=proposal.role,
        signed_by=list(proposal.signed_by),
        still_needed=proposal.still_needed,
    )

"""New roots, targets and team metadata that people bring: which role each file is of, and whether all together hold.

In this order, inside one transaction:

1. Roots, by version. Whether the hub holds the online keys that the last one names shows when it signs the snapshot.
2. The top targets role. Where a new root left the present one without enough signatures, a new one must be among the
   files.
3. Team metadata. Where the new delegations left a team's metadata without enough signatures (a key was revoked), or a
   team has none yet, the team's next metadata must be among the files: clients would refuse the team otherwise.

Content enters by releases alone: team metadata may only repeat its targets, or drop those of yanked releases.
"""

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from tuf.api.metadata import Root, Targets

from sdx_hub.domain.errors import BadInput, TrustError
from sdx_hub.persistence.tables.releases import Proposal, Release
from sdx_hub.publishing.team_metadata import release_of_path
from sdx_hub.services.repositories import metadata_store as rows
from sdx_hub.trust import verification
from sdx_hub.trust.online import COMPACT, IMAGE
from sdx_hub.trust.verification import Incoming, Verified

MAX_FILES = 64


class Accepted(Struct, frozen=True):
    """What a push brought.

    Attributes:
        names: Every file, for instance `image/root 2`.
        new: Those that are not stored yet.
    """

    names: list[str]
    new: list[Verified[Root] | Verified[Targets]]


class ImagePush:
    """The verification of one push; stores nothing.

    Args:
        session: The transaction; its turn to change metadata has come.
        now: The time of every check.
    """

    def __init__(self, session: AsyncSession, now: datetime) -> None:
        self._session = session
        self._now = now
        self._names: list[str] = []
        self._new: list[Verified[Root] | Verified[Targets]] = []

    async def take(self, raws: Sequence[bytes]) -> Accepted:
        """Verify all files together.

        Raises:
            BadInput: No file, too many, or one that fits several roles (code `role_ambiguous`).
            TrustError: See `verification`; `targets_below_threshold`, `team_below_threshold`, `team_metadata_missing`,
                `targets_changed`.
            ConflictError: `metadata_outdated`.
        """
        if not 1 <= len(raws) <= MAX_FILES:
            raise BadInput(f"Bring 1 to {MAX_FILES} metadata files.", "metadata_count")
        files = [verification.read(raw, f"File {number}") for number, raw in enumerate(raws, 1)]
        files.sort(key=lambda each: each.version)
        kinds = {file.metadata.signed.type for file in files}
        if odd := kinds - {Root.type, Targets.type}:
            raise TrustError(f"The hub makes {sorted(odd)[0]} metadata by itself.", "metadata_invalid")
        root = await self._roots([file for file in files if file.metadata.signed.type == Root.type])
        targets = [file for file in files if file.metadata.signed.type == Targets.type]
        # Only the top targets role delegates; a team may not, so this tells them apart.
        delegator = await self._top(root, [file for file in targets if file.metadata.signed.delegations is not None])
        await self._teams(delegator, [file for file in targets if file.metadata.signed.delegations is None])
        return Accepted(self._names, self._new)

    async def _roots(self, files: Sequence[Incoming]) -> Root:
        current: Root = (await self._stored("root")).metadata.signed
        for file in files:
            if await self._known("root", file):
                continue
            verified = verification.verify_root(IMAGE, current, file, self._now)
            current = verified.signed
            self._accept(verified)
        return current

    async def _top(self, root: Root, files: Sequence[Incoming]) -> Targets:
        newest = await self._stored("targets")
        for file in files:
            if await self._known("targets", file):
                continue
            self._accept(verification.verify_targets(root, newest.metadata.signed, file, self._now))
            newest = file
        verification.require_threshold(
            f"root {root.version}", root, "targets", newest, name="image/targets", code="targets_below_threshold"
        )
        signed: Targets = newest.metadata.signed
        return signed

    async def _teams(self, delegator: Targets, files: Sequence[Incoming]) -> None:
        if not files and all(verified.role != "targets" for verified in self._new):
            return  # The delegations are those that every team met before.
        newest: dict[str, Incoming] = {}
        for role in verification.delegated_roles(delegator):
            raw = await rows.newest_raw(self._session, IMAGE, role)
            if raw is not None:
                newest[role] = verification.read(raw, role)
        yanked = frozenset(await self._session.scalars(select(col(Release.id)).where(col(Release.state) == "yanked")))
        for file in files:
            known = next((role for role, held in newest.items() if held.raw == file.raw), None)
            if known is not None:
                self._names.append(f"{IMAGE}/{known} {file.version}")
                continue
            current = {role: held.metadata.signed for role, held in newest.items()}
            wanted = [role for role in verification.delegated_roles(delegator) if not _counts(delegator, role, newest)]
            role = verification.identify_team(delegator, current, file, wanted)
            verified = verification.verify_team(delegator, role, current.get(role), file, self._now)
            _check_content(role, current.get(role), verified.signed, yanked)
            self._accept(verified)
            newest[role] = file
        for role in verification.delegated_roles(delegator):
            _require_team(delegator, role, newest.get(role))

    async def _stored(self, role: str) -> Incoming:
        raw = await rows.newest_raw(self._session, IMAGE, role)
        if raw is None:
            raise rows.not_found(IMAGE, role)
        return verification.read(raw, role)

    async def _known(self, role: str, file: Incoming) -> bool:
        """Whether this very file is stored already: its answer was lost, and it was pushed again."""
        held = await rows.find(self._session, IMAGE, role, file.version)
        if held != file.raw:
            return False
        self._names.append(f"{IMAGE}/{role} {file.version}")
        return True

    def _accept(self, verified: Verified[Root] | Verified[Targets]) -> None:
        self._names.append(f"{IMAGE}/{verified.role} {verified.signed.version}")
        self._new.append(verified)


async def settle_proposals(session: AsyncSession, new: Sequence[Verified[Root] | Verified[Targets]]) -> None:
    """Carry a push over to the releases that wait for signatures.

    A team that went on leaves its waiting releases outdated; a revoked key's signatures no longer count there.
    """
    for each in new:
        if each.role not in {"root", "targets"}:
            await session.execute(
                update(Release)
                .where(col(Release.team_role) == each.role, col(Release.state) == "waiting")
                .values(state="outdated")
            )
        if each.role == "targets" and isinstance(each.signed, Targets):
            delegated = verification.delegated_roles(each.signed)
            for proposal in await session.scalars(select(Proposal)):
                allowed = delegated[proposal.role].keyids if proposal.role in delegated else []
                metadata = verification.read(proposal.raw, proposal.role).metadata
                gone = metadata.signatures.keys() - set(allowed)
                if gone:
                    for keyid in gone:
                        del metadata.signatures[keyid]
                    proposal.raw = metadata.to_bytes(COMPACT)


def _counts(delegator: Targets, role: str, newest: dict[str, Incoming]) -> bool:
    try:
        _require_team(delegator, role, newest.get(role))
    except TrustError:
        return False
    return True


def _require_team(delegator: Targets, role: str, held: Incoming | None) -> None:
    if held is None:
        raise TrustError(
            f"The targets role delegates to {role}, which has no metadata: bring its first one in the same push "
            "(sdx keys rotate makes it).",
            "team_metadata_missing",
            role=f"{IMAGE}/{role}",
        )
    verification.require_threshold(
        f"targets {delegator.version}", delegator, role, held, name=f"{IMAGE}/{role}", code="team_below_threshold"
    )


def _check_content(role: str, current: Targets | None, signed: Targets, yanked: frozenset[str]) -> None:
    before = current.targets if current is not None else {}
    added = {path for path, file in signed.targets.items() if before.get(path) != file}
    removed = {path for path in before.keys() - signed.targets.keys() if release_of_path(path) not in yanked}
    if odd := added | removed:
        raise TrustError(
            f"{IMAGE}/{role} version {signed.version} adds, changes or removes {sorted(odd)[0]}. Releases are "
            "published with `sdx release publish` and taken back with `sdx release yank`.",
            "targets_changed",
        )

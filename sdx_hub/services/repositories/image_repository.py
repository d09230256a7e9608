"""The image repository: what people signed, as it is served, and the hub's snapshots and timestamps over it.

People's metadata enters by a release (`add_team_version`) or by a push of new roots, targets or team metadata. Either
way the next snapshot and timestamp are made in the same transaction, so that no client sees one without the other.
"""

import re
from collections.abc import Mapping, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from tuf.api.metadata import Metadata, Root, Targets

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import ConflictError, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.publishing.team_metadata import TeamView
from sdx_hub.services.repositories import metadata_store as rows
from sdx_hub.services.repositories.image_push import ImagePush, settle_proposals
from sdx_hub.services.repositories.image_sealing import newest_targets, seal
from sdx_hub.services.repositories.metadata_store import Head, MetadataStore
from sdx_hub.trust import verification
from sdx_hub.trust.online import COMPACT, IMAGE, Lives, OnlineSigners
from sdx_hub.trust.verification import Verified

RENEWALS_PER_LIFE = 4
"""A timestamp of a day is made four times a day: an outage of half of its life is survived with time to spare."""

_FILE = re.compile(r"(?:([1-9]\d{0,9})\.)?([a-z0-9][a-z0-9._-]{0,79})\.json")
_log = structlog.get_logger(__name__)


class ImageRepository:
    """One for each process.

    Args:
        database: With the tables.
        clock: Start of every expiry.
        signers: The hub's keys; what the database says about them is read by `load`.
        lives: Of snapshots and timestamps.

    Attributes:
        store: What this process knows; the director and the roots read it too.
    """

    def __init__(self, database: Database, clock: Clock, signers: OnlineSigners, lives: Lives) -> None:
        self._database = database
        self._clock = clock
        self._signers = signers
        self._lives = lives
        self.store = MetadataStore(database, signers)

    async def load(self) -> None:
        """Read what there is.

        Raises:
            ConflictError: This hub has no roots yet (code `hub_not_initialised`).
        """
        await self.store.look()
        if (IMAGE, "root") not in self.store.heads:
            raise ConflictError(
                "This hub has no roots yet. Hold a ceremony (sdx keys ceremony DIR), then: sdx hub init --data DATA "
                "--ceremony DIR.",
                "hub_not_initialised",
            )

    async def refresh(self) -> None:
        """Read what other workers made since."""
        await self.store.look()

    async def file(self, name: str) -> bytes:
        """A file of the repository: `timestamp.json`, or `N.ROLE.json`.

        Raises:
            NotFound: There is none (code `metadata_not_found`).
        """
        match = _FILE.fullmatch(name)
        if match is None:
            raise rows.not_found(IMAGE, name)
        number, role = match.groups()
        if role == "timestamp" and number is None:
            await self.store.look()
            await self._renew_on_demand()
            return await self.store.newest_file(IMAGE, role)
        if number is None or role == "timestamp":
            raise rows.not_found(IMAGE, name)
        return await self.store.file(IMAGE, role, int(number))

    async def newest(self, role: str) -> bytes:
        """The newest version of a role.

        Raises:
            NotFound: There is none (code `metadata_not_found`).
        """
        await self.store.look()
        return await self.store.newest_file(IMAGE, role)

    async def team_view(self, session: AsyncSession, role: str) -> TeamView:
        """What this transaction sees of a team.

        Raises:
            NotFound: There is no such role (code `role_unknown`).
        """
        delegator = await newest_targets(session, "targets")
        if delegator is None or role not in verification.delegated_roles(delegator):
            raise NotFound(f"This hub has no role {role[:80]!r}.", "role_unknown")
        current = await newest_targets(session, role)
        if current is None:
            raise NotFound(f"The role {role} has no metadata yet.", "role_unknown")
        return TeamView(role, delegator, current)

    async def add_team_version(self, uow: UnitOfWork, role: str, metadata: Metadata[Targets]) -> None:
        """Store a team's next metadata and the snapshot and timestamp that follow, in the caller's transaction.

        Raises:
            NotFound, TrustError, ConflictError: See `verification.verify_team`.
        """
        await rows.begin_change(uow)
        await rows.learn_keys(uow.session, self._signers)
        view = await self.team_view(uow.session, role)
        incoming = verification.read(metadata.to_bytes(COMPACT), f"{IMAGE}/{role}")
        verified = verification.verify_team(view.delegator, role, view.current, incoming, self._clock.now())
        await self._seal(uow, [verified])

    async def push(self, principal: Principal, raws: Sequence[bytes]) -> list[str]:
        """Take in new roots, targets and team metadata that people signed, all or nothing.

        A root that names other online keys takes effect at once: the snapshot and the timestamp that are made here
        are signed with them (TUF specification 1.0.34, 5.3.11). The hub's own version numbers simply go on.

        Returns:
            What was accepted, for instance `["image/root 2"]`; a file that was stored before is among them.

        Raises:
            NotAllowed: The role does not approve.
            TrustError, BadInput, NotFound: A file is refused; see `image_push`.
            ConflictError: A version is not the next one, or the hub does not hold an online key that the root names
                (code `online_key_missing`).
        """
        principal.require(Permission.APPROVE)
        async with self._database.unit_of_work() as uow:
            await rows.begin_change(uow)
            await rows.learn_keys(uow.session, self._signers)
            accepted = await ImagePush(uow.session, self._clock.now()).take(raws)
            if accepted.new:
                await self._seal(uow, accepted.new)
                await settle_proposals(uow.session, accepted.new)
                for each in accepted.new:
                    name = f"{IMAGE}/{each.role}"
                    await uow.audit(principal.name, "trust.push", name, version=each.signed.version)
                await uow.commit()
        return accepted.names

    async def resign_if_due(self) -> bool:
        """Make the next timestamp, or snapshot and timestamp, where a quarter of its life is over.

        With several workers, the first one signs and the others see it.

        Returns:
            Whether something was signed.
        """
        if not self._due(self.store.heads):
            return False
        async with self._database.unit_of_work() as uow:
            await rows.begin_change(uow)
            await rows.learn_keys(uow.session, self._signers)
            due = self._due(await rows.newest(uow.session))
            if due:
                await self._seal(uow, [], renew_snapshot="snapshot" in due)
                await uow.commit()
            else:
                await self.store.look()
        return bool(due)

    def _due(self, heads: Mapping[tuple[str, str], Head]) -> set[str]:
        now = self._clock.now()
        due = set()
        for role, life in (("snapshot", self._lives.snapshot), ("timestamp", self._lives.timestamp)):
            head = heads.get((IMAGE, role))
            if head is not None and now >= head.created_at + head.life(life) / RENEWALS_PER_LIFE:
                due.add(role)
        return due

    async def _renew_on_demand(self) -> None:
        try:
            await self.resign_if_due()
        except Exception:
            # What there is stays valid for most of its life, and the loop tries again: reading must go on meanwhile.
            _log.exception("image_timestamp_not_renewed")

    async def _seal(
        self, uow: UnitOfWork, new: Sequence[Verified[Root] | Verified[Targets]], *, renew_snapshot: bool = True
    ) -> None:
        """Store `new`, and the snapshot and the timestamp that follow from it."""
        await seal(uow.session, self._signers, self._lives, self._clock.now(), new, renew_snapshot=renew_snapshot)
        uow.after_commit(self.refresh)

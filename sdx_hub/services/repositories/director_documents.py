"""The director's documents in the database: signed for many devices in one transaction, old ones deleted."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from msgspec import Struct
from sqlalchemy import bindparam, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from tuf.api.metadata import Metadata, Root, TargetFile, Timestamp

from firmware_schemas.release import ReleaseTarget, decode_manifest, targets_of
from sdx_hub.observing import DIRECTOR_DOCUMENTS, SIGN_DIRECTOR, observed
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.trust import DirectorDocument
from sdx_hub.services.repositories.bounded_cache import BoundedCache
from sdx_hub.trust import director
from sdx_hub.trust.ceremony import TEAM_PREFIX
from sdx_hub.trust.director import Documents, Instructions
from sdx_hub.trust.online import OnlineSigners

KEPT_VERSIONS = 2
"""A device in the middle of its work still finds the version before: it goes when it has been replaced twice."""
_RELEASE_BYTES = 8 * 1024**2


class Signing(Struct, frozen=True):
    """What documents are signed with now.

    Attributes:
        id: Of the keys: a document with another one was signed before an online key was replaced.
    """

    root: Root
    id: str


class Held(Struct, frozen=True):
    """A device's newest document.

    Attributes:
        signed_by: See `Signing.id`.
        renew_at: Half of its life.
    """

    documents: Documents
    desired_version: int
    signed_by: str
    renew_at: datetime

    def will_do(self, desired_version: int, signing: Signing, now: datetime) -> bool:
        """Whether it still says what the device should run, by keys that count, for long enough."""
        return self.desired_version == desired_version and self.signed_by == signing.id and now < self.renew_at


class DocumentWriter:
    """Signs and stores; knows the releases that it met last.

    Args:
        signers: The hub's keys.
        life: Of a document.
    """

    def __init__(self, signers: OnlineSigners, life: timedelta) -> None:
        self._signers = signers
        self._life = life
        self._releases: BoundedCache[str, tuple[ReleaseTarget, ...]] = BoundedCache(_RELEASE_BYTES)

    async def bring_up_to_date(
        self, session: AsyncSession, device_ids: Sequence[str], signing: Signing, now: datetime
    ) -> dict[str, Held]:
        """The newest document of each device that exists; signed here, unless another worker has just done so.

        Args:
            session: A transaction that may write; the caller commits.
            device_ids: Any devices.
            signing: The newest root and its keys.
            now: Start of the expiry.
        """
        # The lock is for PostgreSQL: whoever comes second waits here, and then finds what the first one signed.
        rows = await session.execute(
            select(col(Device.id), col(Device.desired_version), col(Device.hardware))
            .where(col(Device.id).in_(device_ids))
            .order_by(col(Device.id))
            .with_for_update()
        )
        devices = {identity: (desired_version, hardware) for identity, desired_version, hardware in rows}
        held = await self._newest(session, devices)
        stale = [
            identity
            for identity, (desired_version, _) in devices.items()
            if identity not in held or not held[identity].will_do(desired_version, signing, now)
        ]
        if not stale:
            return held
        assigned = await self._assigned(session, stale)
        made = []
        with observed.step(SIGN_DIRECTOR):
            for identity in stale:
                desired_version, hardware = devices[identity]
                targets: dict[str, TargetFile] = {}
                for release in assigned[identity]:
                    targets |= director.targets_for(release, hardware)
                action = f"{identity}.{desired_version}" if targets else ""
                instructions = Instructions(identity, action, targets)
                # Not below the desired state: that has skipped what a hub said after the backup that made this one.
                following = held[identity].documents.version + 1 if identity in held else 1
                version = max(following, desired_version)
                documents = director.sign(instructions, version, signing.root, self._signers, now=now, life=self._life)
                made.append(_row(identity, desired_version, documents, signing.id, now))
                held[identity] = self._held(documents, desired_version, signing.id, now)
        observed.count(DIRECTOR_DOCUMENTS, len(made))
        await _store(session, made)
        return held

    async def _newest(self, session: AsyncSession, device_ids: Iterable[str]) -> dict[str, Held]:
        rows = await session.execute(
            select(
                col(DirectorDocument.device_id),
                col(DirectorDocument.version),
                col(DirectorDocument.targets),
                col(DirectorDocument.snapshot),
                col(DirectorDocument.timestamp),
                col(DirectorDocument.desired_version),
                col(DirectorDocument.signed_by),
                col(DirectorDocument.signed_at),
            )
            .where(col(DirectorDocument.device_id).in_(device_ids))
            .order_by(col(DirectorDocument.version))
        )
        # The last one of a device in the order of versions stays.
        return {
            identity: self._held(stored(version, targets, snapshot, timestamp), desired_version, signed_by, signed_at)
            for identity, version, targets, snapshot, timestamp, desired_version, signed_by, signed_at in rows
        }

    async def _assigned(
        self, session: AsyncSession, device_ids: Sequence[str]
    ) -> Mapping[str, list[tuple[ReleaseTarget, ...]]]:
        rows = await session.execute(
            select(col(Assignment.device_id), col(Assignment.release_id))
            .where(col(Assignment.device_id).in_(device_ids))
            .order_by(col(Assignment.product))
        )
        found: dict[str, list[tuple[ReleaseTarget, ...]]] = defaultdict(list)
        for identity, release_id in rows.all():
            found[identity].append(await self._release(session, release_id))
        return found

    async def _release(self, session: AsyncSession, release_id: str) -> tuple[ReleaseTarget, ...]:
        known = self._releases.get(release_id)
        if known is None:
            found = await session.execute(
                select(col(Release.team_role), col(Release.manifest)).where(col(Release.id) == release_id)
            )
            role, manifest = found.one()
            known = targets_of(role.removeprefix(TEAM_PREFIX), decode_manifest(manifest))
            self._releases.put(release_id, known, 4 * len(manifest))
        return known

    def _held(self, documents: Documents, desired_version: int, signed_by: str, signed_at: datetime) -> Held:
        life = min(self._life, documents.expires - signed_at)
        return Held(documents, desired_version, signed_by, signed_at + life / 2)


def stored(version: int, targets: bytes, snapshot: bytes, timestamp: bytes) -> Documents:
    """A document out of its row."""
    expires = Metadata[Timestamp].from_bytes(timestamp).signed.expires
    return Documents(version, targets, snapshot, timestamp, expires)


def _row(
    device_id: str, desired_version: int, documents: Documents, signed_by: str, signed_at: datetime
) -> dict[str, object]:
    return {
        "device_id": device_id,
        "version": documents.version,
        "desired_version": desired_version,
        "targets": documents.targets,
        "snapshot": documents.snapshot,
        "timestamp": documents.timestamp,
        "signed_by": signed_by,
        "signed_at": signed_at,
    }


async def _store(session: AsyncSession, made: Sequence[Mapping[str, object]]) -> None:
    await session.execute(insert(DirectorDocument), made)
    table = DirectorDocument.metadata.tables[str(DirectorDocument.__tablename__)]
    connection = await session.connection()
    await connection.execute(
        table.delete().where(table.c.device_id == bindparam("device"), table.c.version <= bindparam("replaced_twice")),
        [
            {"device": row["device_id"], "replaced_twice": row["version"] - KEPT_VERSIONS}  # type: ignore[operator]
            for row in made
        ],
    )

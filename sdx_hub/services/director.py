"""The director: what each device should run, signed when the device asks for it and not before.

A document is signed anew when the device's desired state changed, when half of its life is over, or when an online key
was replaced. The database is the truth: a request for the timestamp reads one row, everything else of a current
document comes out of memory.
"""

import re
from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from tuf.api.metadata import Metadata, Root, TargetFile, Timestamp

from firmware_schemas.ids import DeviceId
from firmware_schemas.release import ReleaseTarget, decode_manifest, targets_of
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.audit import Counter
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.trust import DirectorDocument
from sdx_hub.services import metadata_store as rows
from sdx_hub.services.bounded_cache import BoundedCache
from sdx_hub.services.image_push import MAX_FILES
from sdx_hub.services.image_repository import ImageRepository
from sdx_hub.trust import director, verification
from sdx_hub.trust.ceremony import TEAM_PREFIX
from sdx_hub.trust.director import Documents, Instructions
from sdx_hub.trust.online import DIRECTOR, Lives, OnlineSigners
from sdx_hub.trust.verification import Verified

KEPT_VERSIONS = 2
"""A device in the middle of its work still finds the version before: it goes when it has been replaced twice."""

_FILE = re.compile(r"([1-9]\d{0,9})\.(root|snapshot|targets)\.json")
_DOCUMENT_BYTES = 32 * 1024**2
_RELEASE_BYTES = 8 * 1024**2


class _Signed(Struct, frozen=True):
    """A device's newest document, and until when it will do.

    Attributes:
        renew_at: Half of its life.
        signed_by: See `_Signing.id`.
    """

    documents: Documents
    desired_version: int
    signed_by: str
    renew_at: datetime


class _Signing(Struct, frozen=True):
    """What documents are signed with now.

    Attributes:
        id: Of the keys: a document with another one was signed before an online key was replaced.
    """

    root: Root
    id: str


class Director:
    """One for each process.

    Args:
        database: With the tables.
        clock: Start of every expiry.
        signers: The hub's keys.
        lives: Of the documents.
        image: Whose knowledge of roots and keys is shared.
    """

    def __init__(
        self, database: Database, clock: Clock, signers: OnlineSigners, lives: Lives, image: ImageRepository
    ) -> None:
        self._database = database
        self._clock = clock
        self._signers = signers
        self._life = lives.director
        self._store = image.store
        self._documents: BoundedCache[str, _Signed] = BoundedCache(_DOCUMENT_BYTES)
        self._releases: BoundedCache[str, tuple[ReleaseTarget, ...]] = BoundedCache(_RELEASE_BYTES)
        self._signing: tuple[int, _Signing] | None = None

    async def load(self) -> None:
        """Check that this hub can instruct its devices.

        Raises:
            ConflictError: It holds too few of the keys that the director's root names (code `online_key_missing`).
            Unavailable: A key cannot be opened (code `online_key_unreadable`).
            NotFound: There is no root (code `metadata_not_found`).
        """
        await self._store.look()
        await self._now()

    async def file(self, device_id: DeviceId, name: str) -> bytes:
        """A file for one device: `timestamp.json`, or `N.root.json`, `N.snapshot.json`, `N.targets.json`.

        Raises:
            NotFound: There is none (code `metadata_not_found`), or no such device (`device_unknown`).
        """
        if name == "timestamp.json":
            return (await self._current(device_id)).timestamp
        match = _FILE.fullmatch(name)
        if match is None:
            raise rows.not_found(DIRECTOR, name)
        version, role = int(match[1]), match[2]
        if role == "root":
            return await self._store.file(DIRECTOR, role, version)
        documents = await self._version(device_id, version)
        return documents.targets if role == "targets" else documents.snapshot

    async def newest_root(self) -> bytes:
        """The newest root of the director."""
        await self._store.look()
        return await self._store.newest_file(DIRECTOR, "root")

    async def push(self, principal: Principal, raws: Sequence[bytes]) -> list[str]:
        """Take in new roots of the director that people signed, all or nothing.

        Every document that was signed with a key that the new root no longer names is signed anew when its device
        asks next; version numbers go on (TUF specification 1.0.34, 5.3.11).

        Returns:
            What was accepted, for instance `["director/root 2"]`; a file that was stored before is among them.

        Raises:
            NotAllowed: The role does not approve.
            BadInput: No file, or too many.
            TrustError, ConflictError: See `verification.verify_root`; `online_key_missing`.
        """
        principal.require(Permission.APPROVE)
        if not 1 <= len(raws) <= MAX_FILES:
            raise BadInput(f"Bring 1 to {MAX_FILES} metadata files.", "metadata_count")
        files = [verification.read(raw, f"File {number}") for number, raw in enumerate(raws, 1)]
        files.sort(key=lambda each: each.version)
        new: list[Verified[Root]] = []
        async with self._database.unit_of_work() as uow:
            await rows.begin_change(uow)
            await rows.learn_keys(uow.session, self._signers)
            current = _parse_root(await rows.newest_raw(uow.session, DIRECTOR, "root"))
            for file in files:
                if await rows.find(uow.session, DIRECTOR, "root", file.version) == file.raw:
                    continue
                verified = verification.verify_root(DIRECTOR, current, file, self._clock.now())
                current = verified.signed
                new.append(verified)
            if new:
                self._signers.require_all(DIRECTOR, current)
                now = self._clock.now()
                for each in new:
                    rows.add(uow.session, DIRECTOR, "root", signed=each.signed, raw=each.raw, now=now)
                    await uow.audit(principal.name, "trust.push", f"{DIRECTOR}/root", version=each.signed.version)
                uow.after_commit(self._store.look)
                await uow.commit()
        return [f"{DIRECTOR}/root {file.version}" for file in files]

    async def _current(self, device_id: DeviceId) -> Documents:
        trust = select(col(Counter.value)).where(col(Counter.name) == rows.TRUST_COUNTER).scalar_subquery()
        async with self._database.reading() as session:
            found = await session.execute(select(col(Device.desired_version), trust).where(col(Device.id) == device_id))
            row = found.one_or_none()
        if row is None:
            raise _unknown(device_id)
        desired_version, number = row
        if number != self._store.number:
            await self._store.look()
        signing = await self._now()
        held = self._documents.get(device_id)
        if held is None or not self._will_do(held, desired_version, signing):
            held = await self._sign(device_id)
        return held.documents

    async def _version(self, device_id: DeviceId, version: int) -> Documents:
        held = self._documents.get(device_id)
        if held is not None and held.documents.version == version:
            return held.documents
        async with self._database.reading() as session:
            row = await session.get(DirectorDocument, (device_id, version))
        if row is None:
            raise rows.not_found(DIRECTOR, "this device's instructions")
        return _documents(row)

    async def _now(self) -> _Signing:
        number = self._store.number
        if self._signing is None or self._signing[0] != number:
            root = _parse_root(await self._store.newest_file(DIRECTOR, "root"))
            keyids = self._signers.keyids(DIRECTOR, root)
            self._signing = number, _Signing(root, ",".join(keyid[:16] for keyid in keyids))
        return self._signing[1]

    def _will_do(self, held: _Signed, desired_version: int, signing: _Signing) -> bool:
        return (
            held.desired_version == desired_version
            and held.signed_by == signing.id
            and self._clock.now() < held.renew_at
        )

    async def _sign(self, device_id: DeviceId) -> _Signed:
        """Sign the next version, unless another worker has just done so."""
        async with self._database.unit_of_work() as uow:
            session = uow.session
            # The lock is for PostgreSQL: whoever comes second waits here, and then finds what the first one signed.
            device = await session.scalar(select(Device).where(col(Device.id) == device_id).with_for_update())
            if device is None:
                raise _unknown(device_id)
            row = await session.scalar(
                select(DirectorDocument)
                .where(col(DirectorDocument.device_id) == device_id)
                .order_by(col(DirectorDocument.version).desc())
                .limit(1)
            )
            signing = await self._now()
            if row is not None:
                held = self._held(row)
                if self._will_do(held, device.desired_version, signing):
                    self._documents.put(device_id, held, held.documents.size)
                    return held
            now = self._clock.now()
            version = row.version + 1 if row is not None else 1
            instructions = await self._instructions(session, device)
            documents = director.sign(instructions, version, signing.root, self._signers, now=now, life=self._life)
            made = DirectorDocument(
                device_id=device_id,
                version=version,
                desired_version=device.desired_version,
                targets=documents.targets,
                snapshot=documents.snapshot,
                timestamp=documents.timestamp,
                signed_by=signing.id,
                signed_at=now,
            )
            session.add(made)
            await session.execute(
                delete(DirectorDocument).where(
                    col(DirectorDocument.device_id) == device_id,
                    col(DirectorDocument.version) <= version - KEPT_VERSIONS,
                )
            )
            await uow.commit()
        held = self._held(made)
        self._documents.put(device_id, held, held.documents.size)
        return held

    async def _instructions(self, session: AsyncSession, device: Device) -> Instructions:
        found = await session.scalars(select(col(Assignment.release_id)).where(col(Assignment.device_id) == device.id))
        targets: dict[str, TargetFile] = {}
        for release_id in sorted(found):
            targets |= director.targets_for(await self._release(session, release_id), device.hardware)
        action = f"{device.id}.{device.desired_version}" if targets else ""
        return Instructions(device.id, device.desired_version, action, targets)

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

    def _held(self, row: DirectorDocument) -> _Signed:
        documents = _documents(row)
        life = min(self._life, documents.expires - row.signed_at)
        return _Signed(documents, row.desired_version, row.signed_by, row.signed_at + life / 2)


def _documents(row: DirectorDocument) -> Documents:
    expires = Metadata[Timestamp].from_bytes(row.timestamp).signed.expires
    return Documents(row.version, row.targets, row.snapshot, row.timestamp, expires)


def _parse_root(raw: bytes | None) -> Root:
    if raw is None:
        raise rows.not_found(DIRECTOR, "root")
    return Metadata[Root].from_bytes(raw).signed


def _unknown(device_id: str) -> NotFound:
    return NotFound(f"There is no device {device_id[:80]!r}.", "device_unknown")

"""The director: what each device should run, signed when the device asks for it and not before.

A document is signed anew when the device's desired state changed, when half of its life is over, or when an online key
was replaced. The database is the truth: a request for the timestamp reads one row (devices that ask at the same time
share the query, and the transaction in which they are signed for); the rest of a current document is in memory.
"""

import re
from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlmodel import col
from tuf.api.metadata import Metadata, Root

from firmware_schemas.ids import DeviceId
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, NotFound
from sdx_hub.observing import SIGN_DIRECTOR, observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.trust import DirectorDocument
from sdx_hub.services.batching import Batcher
from sdx_hub.services.repositories import director_documents
from sdx_hub.services.repositories import metadata_store as rows
from sdx_hub.services.repositories.bounded_cache import BoundedCache
from sdx_hub.services.repositories.director_documents import DocumentWriter, Held, Signing
from sdx_hub.services.repositories.image_push import MAX_FILES
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.trust import verification
from sdx_hub.trust.director import Documents
from sdx_hub.trust.online import DIRECTOR, Lives, OnlineSigners
from sdx_hub.trust.verification import Verified

MAX_BATCH = 200
"""Devices in one transaction: some thirty milliseconds of signing."""

_FILE = re.compile(r"([1-9]\d{0,9})\.(root|snapshot|targets)\.json")
_DOCUMENT_BYTES = 32 * 1024**2


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
        self._writer = DocumentWriter(signers, lives.director)
        self._store = image.store
        self._documents: BoundedCache[str, Held] = BoundedCache(_DOCUMENT_BYTES)
        self._signing: tuple[int, Signing] | None = None
        self._batcher: Batcher[str, Documents] = Batcher(self._bring_up_to_date, MAX_BATCH)

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
            return (await self._batcher.ask(device_id)).timestamp
        match = _FILE.fullmatch(name)
        if match is None:
            raise rows.not_found(DIRECTOR, name)
        version, role = int(match[1]), match[2]
        if role == "root":
            return await self._store.file(DIRECTOR, role, version)
        documents = await self._version(device_id, version)
        return documents.targets if role == "targets" else documents.snapshot

    @property
    def waiting(self) -> int:
        """Devices that wait for the next batch of instructions."""
        return self._batcher.waiting

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

    async def _bring_up_to_date(self, device_ids: Sequence[str]) -> Mapping[str, Documents | Exception]:
        wanted = select(col(Device.id), col(Device.desired_version)).where(col(Device.id).in_(device_ids))
        async with self._database.reading() as session:
            desired = {row.id: row.desired_version for row in await session.execute(wanted)}
            number = await rows.change_number(session)
        if number != self._store.number:
            await self._store.look()
        signing, now = await self._now(), self._clock.now()
        found: dict[str, Documents | Exception] = {}
        stale = []
        for identity in device_ids:
            held = self._documents.get(identity)
            if identity not in desired:
                found[identity] = _unknown(identity)
            elif held is not None and held.will_do(desired[identity], signing, now):
                found[identity] = held.documents
            else:
                stale.append(identity)
        if stale:
            async with self._database.unit_of_work() as uow:
                if await rows.change_number(uow.session) != self._store.number:
                    await self._store.look()  # A root came in while this waited for its turn.
                    signing = await self._now()
                made = await self._writer.bring_up_to_date(uow.session, stale, signing, now)
                await uow.commit()
            for identity, held in made.items():
                self._documents.put(identity, held, held.documents.size)
            found |= {
                identity: made[identity].documents if identity in made else _unknown(identity) for identity in stale
            }
        return found

    async def _version(self, device_id: DeviceId, version: int) -> Documents:
        held = self._documents.get(device_id)
        if held is not None and held.documents.version == version:
            return held.documents
        async with self._database.reading() as session:
            row = await session.get(DirectorDocument, (device_id, version))
        if row is None:
            raise rows.not_found(DIRECTOR, "this device's instructions")
        return director_documents.stored(row.version, row.targets, row.snapshot, row.timestamp)

    async def _now(self) -> Signing:
        number = self._store.number
        if self._signing is None or self._signing[0] != number:
            root = _parse_root(await self._store.newest_file(DIRECTOR, "root"))
            with observed.step(SIGN_DIRECTOR):  # A key that is missing fails here.
                keyids = self._signers.keyids(DIRECTOR, root)
            self._signing = number, Signing(root, ",".join(keyid[:16] for keyid in keyids))
        return self._signing[1]


def _parse_root(raw: bytes | None) -> Root:
    if raw is None:
        raise rows.not_found(DIRECTOR, "root")
    return Metadata[Root].from_bytes(raw).signed


def _unknown(device_id: str) -> NotFound:
    return NotFound(f"There is no device {device_id[:80]!r}.", "device_unknown")

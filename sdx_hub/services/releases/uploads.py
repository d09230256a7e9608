"""Resumable uploads of payloads, content-addressed.

What a person may rely on, whenever the hub is killed:

1. An offset that was acknowledged is on the disk: bytes are fsynced first, then the offset is committed.
2. A complete upload has its blob: both forms are in the blob store before the row says so. A crash in between leaves
   the row open at its full length; the next request finishes it.
3. Half-written things are resumed or swept, and never served: they lie in DATA/uploads, under other names.

A piece is written without a lock: its offset is committed only where the upload still is where the piece began, so of
two connections of one person the slower gets `offset_mismatch`. What is checked in the end is a private copy, and the
copy is what gets stored: a late write cannot slip in between.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

import structlog
from msgspec import Struct
from sqlalchemy import delete, select, update
from sqlmodel import col

from firmware_schemas.limits import MAX_PAYLOAD_BYTES
from sdx_hub.adapters.blobs import ENCODINGS, BlobStore, Encoding
from sdx_hub.adapters.clock import Clock
from sdx_hub.adapters.upload_files import UploadFiles, room
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TooLarge, TrustError, Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.releases import Upload
from sdx_hub.services.releases import payload_intake

UPLOAD_LIFE = timedelta(days=7)
"""An upload that was not finished by then is given up."""
MAX_OPEN_UPLOADS = 256
"""Of one person: so many may lie around half-done on the disk."""

_WRITE_BYTES = 1024**2
_FINISHING = 2
_SHA256_DIGITS = frozenset("0123456789abcdef")
_log = structlog.get_logger(__name__)


class Begun(Struct, frozen=True):
    """Answer to `begin`: the payload is there already, or where to go on."""

    exists: bool
    id: str = ""
    offset: int = 0


class Appended(Struct, frozen=True):
    """How far an upload is: bytes that are on the disk for sure, and whether the payload is stored."""

    offset: int
    complete: bool


class UploadService:
    """Uploads of this process.

    Args:
        database: Where the offsets are.
        clock: For ages.
        blobs: Where payloads go.
        files: DATA/uploads.
    """

    def __init__(self, database: Database, clock: Clock, blobs: BlobStore, files: UploadFiles) -> None:
        self._database = database
        self._clock = clock
        self._blobs = blobs
        self._files = files
        self._slots = asyncio.Semaphore(_FINISHING)
        self._finishing: dict[str, asyncio.Task[None]] = {}

    async def begin(self, principal: Principal, sha256: str, length: int, encoding: str, decoded_length: int) -> Begun:
        """Begin an upload, or continue the one that this person has open for the payload.

        Args:
            principal: Who asks.
            sha256: Of the decoded payload.
            length: Encoded bytes to come.
            encoding: `identity` or `zstd`.
            decoded_length: Bytes of the payload: the cap while decompressing.

        Raises:
            NotAllowed: The role does not publish.
            BadInput: A value is malformed.
            TooLarge: The payload is larger than any may be (code `too_large`).
            TrustError: The stored payload of this digest has another length (code `payload_digest_mismatch`).
            ConflictError: Too many uploads are open (code `too_many_uploads`).
        """
        principal.require(Permission.PUBLISH)
        _check_order(sha256, length, encoding, decoded_length)
        if await self._stored(sha256):
            size = await self._blobs.stat(sha256, "identity")
            if size != decoded_length:
                raise TrustError(
                    f"The payload {sha256[:12]}... has {size} bytes, not {decoded_length}.", "payload_digest_mismatch"
                )
            return Begun(exists=True)
        async with self._database.unit_of_work() as uow:
            mine = select(Upload).where(col(Upload.created_by) == principal.name, col(Upload.state) == "open")
            row = await uow.session.scalar(mine.where(col(Upload.sha256) == sha256))
            if row is not None and (row.length, row.encoding, row.decoded_length) == (length, encoding, decoded_length):
                on_disk = self._files.size(row.id)
                if on_disk < row.offset:  # The folder was lost, or restored from an older backup.
                    row.offset = on_disk
                    await uow.commit()
                return Begun(exists=False, id=row.id, offset=row.offset)
            if row is not None:  # Compressed anew to another length: what is here is of no use.
                row.state = "failed"
                await uow.session.flush()
                uow.after_commit(partial(self._drop, row.id))
            elif len((await uow.session.scalars(mine)).all()) >= MAX_OPEN_UPLOADS:
                raise ConflictError(
                    f"{principal.name} has {MAX_OPEN_UPLOADS} open uploads. Finish some, or wait until they are given "
                    f"up after {UPLOAD_LIFE.days} days.",
                    "too_many_uploads",
                )
            fresh = Upload(
                id=secrets.token_hex(16),
                sha256=sha256,
                length=length,
                decoded_length=decoded_length,
                encoding=encoding,
                offset=0,
                state="open",
                created_by=principal.name,
                created_at=self._clock.now(),
            )
            uow.session.add(fresh)
            await uow.commit()
        return Begun(exists=False, id=fresh.id, offset=0)

    async def status(self, principal: Principal, upload_id: str) -> Appended:
        """How far an upload is.

        Raises:
            NotAllowed: The role does not publish.
            NotFound: This person has no such upload (code `upload_not_found`).
        """
        row = await self._mine(principal, upload_id)
        return Appended(row.offset, row.state == "complete")

    async def append(self, principal: Principal, upload_id: str, offset: int, stream: AsyncIterator[bytes]) -> Appended:
        """Append a piece; with the last one the payload is checked and stored, and only then is it complete.

        If the stream breaks off, what had arrived is kept and the stream's error is raised.

        Args:
            principal: Whose upload it is.
            upload_id: From `begin`.
            offset: Where the piece begins.
            stream: Its bytes; may be none, to finish an upload that has them all.

        Raises:
            NotAllowed: The role does not publish.
            NotFound: This person has no such upload, or its content was refused (code `upload_not_found`).
            ConflictError: The hub is at another offset (code `offset_mismatch`, member `offset`).
            TooLarge: More bytes than `length` (code `too_large`); none of the piece was kept.
            TrustError: The content is refused (`payload_digest_mismatch`, `decompression_bomb`, `bundle_invalid`).
            Unavailable: The disk is full (code `storage_full`).
        """
        row = await self._mine(principal, upload_id)
        if row.state == "complete":
            return Appended(row.length, complete=True)  # The answer to the last piece was lost.
        if offset != row.offset or self._files.size(row.id) < offset:
            raise await self._mismatch(row)
        end, broken = await self._write(row, offset, stream)
        if end > offset:
            async with self._database.unit_of_work() as uow:
                moved = await uow.session.execute(
                    update(Upload)
                    .where(col(Upload.id) == row.id, col(Upload.state) == "open", col(Upload.offset) == offset)
                    .values(offset=end)
                    .returning(col(Upload.id))
                )
                if moved.scalar_one_or_none() is not None:
                    await uow.commit()
                    row.offset = end
            if row.offset != end:
                raise await self._mismatch(row)
        if broken is not None:
            raise broken
        if end == row.length:
            await self._finished(row)
        return Appended(end, complete=end == row.length)

    async def keep(self, raw: bytes) -> str:
        """Store bytes that the hub holds whole, a manifest for instance; return their digest."""
        sha256 = hashlib.sha256(raw).hexdigest()
        if not await self._stored(sha256):
            source = self._files.scratch()
            with room():
                await asyncio.to_thread(source.write_bytes, raw)
            await self._store(source, sha256, "identity", len(raw))
        return sha256

    async def sweep(self) -> int:
        """Give up uploads that are too old, and remove files that nothing will continue; at start, then hourly.

        Returns:
            The number of uploads that were given up.
        """
        before = self._clock.now() - UPLOAD_LIFE
        async with self._database.unit_of_work() as uow:
            aged = col(Upload.created_at) < before
            given_up = await uow.session.scalars(
                update(Upload).where(aged, col(Upload.state) == "open").values(state="failed").returning(col(Upload.id))
            )
            count = len(given_up.all())
            await uow.session.execute(delete(Upload).where(aged, col(Upload.state) != "open"))
            await uow.commit()
        async with self._database.reading() as session:
            still_open = set(await session.scalars(select(col(Upload.id)).where(col(Upload.state) == "open")))
        await asyncio.to_thread(self._files.sweep, still_open)
        return count

    async def close(self) -> None:
        """Wait for the payloads that are being checked; before the database is closed."""
        await asyncio.gather(*self._finishing.values(), return_exceptions=True)

    async def _mine(self, principal: Principal, upload_id: str) -> Upload:
        principal.require(Permission.PUBLISH)
        async with self._database.reading() as session:
            row = await session.get(Upload, upload_id)
        if row is None or row.created_by != principal.name or row.state == "failed":
            raise NotFound(
                f"{principal.name} has no upload {upload_id[:64]!r}, or its content was refused. Begin a new one.",
                "upload_not_found",
            )
        return row

    async def _mismatch(self, row: Upload) -> ConflictError:
        async with self._database.unit_of_work() as uow:
            current = await uow.session.get(Upload, row.id)
            on_disk = self._files.size(row.id)
            if current is not None and current.state == "open" and on_disk < current.offset:
                current.offset = on_disk
                await uow.commit()
            offset = current.offset if current is not None else 0
        return ConflictError(f"This upload goes on at byte {offset}.", "offset_mismatch", offset=offset)

    async def _write(self, row: Upload, offset: int, stream: AsyncIterator[bytes]) -> tuple[int, Exception | None]:
        """Write a piece and fsync it; return where it ends, and what broke the stream off, if anything."""
        position, pending, broken = offset, bytearray(), None

        async def flush() -> None:
            nonlocal position
            data = bytes(pending)
            pending.clear()
            await asyncio.to_thread(self._files.write, row.id, position, data)
            position += len(data)

        try:
            async for chunk in stream:
                _refuse_surplus(row.length, position + len(pending) + len(chunk))
                pending += chunk
                if len(pending) >= _WRITE_BYTES:
                    await flush()
        except (TooLarge, Unavailable):
            raise
        except Exception as error:  # Whatever the server raises when a client goes away.
            broken = error
        if pending:
            await flush()
        if position > offset:
            await asyncio.to_thread(self._files.sync, row.id)
        return position, broken

    async def _finished(self, row: Upload) -> None:
        """Wait until the payload is checked and stored; a client that goes away does not stop that."""
        task = self._finishing.get(row.id)
        if task is None:
            task = self._finishing[row.id] = asyncio.create_task(self._finish(row), name=f"upload-{row.id}")
            task.add_done_callback(lambda done: self._forget(row.id, done))
        await asyncio.shield(task)

    def _forget(self, upload_id: str, task: asyncio.Task[None]) -> None:
        del self._finishing[upload_id]
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, TrustError):
            _log.warning("upload_not_finished", upload=upload_id, error=repr(error))

    async def _finish(self, row: Upload) -> None:
        refusal: TrustError | None = None
        async with self._slots:
            try:
                if row.length == 0:
                    await asyncio.to_thread(self._files.write, row.id, 0, b"")
                source = await asyncio.to_thread(self._files.private_copy, row.id)
                await self._store(source, row.sha256, cast(Encoding, row.encoding), row.decoded_length)
            except TrustError as error:
                refusal = error
            except FileNotFoundError:
                # Another worker was faster, or somebody cleared the folder.
                if not await self._stored(row.sha256):
                    raise await self._mismatch(row) from None
        async with self._database.unit_of_work() as uow:
            ended = await uow.session.execute(
                update(Upload)
                .where(col(Upload.id) == row.id, col(Upload.state) == "open")
                .values(state="failed" if refusal else "complete")
                .returning(col(Upload.id))
            )
            if ended.scalar_one_or_none() is not None:
                verb, code = ("upload.refuse", refusal.code) if refusal else ("upload.complete", "")
                await uow.audit(row.created_by, verb, row.sha256, length=row.decoded_length, code=code)
                await uow.commit()
        await self._drop(row.id)
        if refusal is not None:
            raise refusal

    async def _store(self, source: Path, sha256: str, encoding: Encoding, decoded_length: int) -> None:
        """Check a private file, and put it and its other form into the blob store; afterwards both are gone."""
        other: Encoding = "identity" if encoding == "zstd" else "zstd"
        scratch = self._files.scratch()
        try:
            with room():
                if encoding == "zstd":
                    await asyncio.to_thread(payload_intake.unpack_file, source, sha256, decoded_length, scratch)
                else:
                    await asyncio.to_thread(payload_intake.pack_file, source, sha256, scratch)
                await self._blobs.put(sha256, other, scratch)
                await self._blobs.put(sha256, encoding, source)
        finally:
            await asyncio.to_thread(self._files.remove, scratch, source)

    async def _stored(self, sha256: str) -> bool:
        return all([await self._blobs.stat(sha256, encoding) is not None for encoding in ENCODINGS])

    async def _drop(self, upload_id: str) -> None:
        await asyncio.to_thread(self._files.drop, upload_id)


def _check_order(sha256: str, length: int, encoding: str, decoded_length: int) -> None:
    if len(sha256) != 64 or not set(sha256) <= _SHA256_DIGITS:
        raise BadInput("sha256 is 64 hexadecimal digits in lower case.", "invalid_sha256")
    if encoding not in ENCODINGS:
        raise BadInput(f"The encoding is one of {', '.join(ENCODINGS)}.", "invalid_encoding")
    if length < 0 or decoded_length < 0 or (encoding == "identity" and length != decoded_length):
        raise BadInput("The lengths contradict the encoding.", "invalid_length")
    if decoded_length > MAX_PAYLOAD_BYTES:
        raise TooLarge(f"A payload has at most {MAX_PAYLOAD_BYTES} bytes, uncompressed.", "too_large")
    # RFC 8878 allows more (empty blocks without end); no encoder needs it. zstd's own bound is 1/256 and 64 bytes.
    if length > decoded_length + decoded_length // 128 + 1024:
        raise TooLarge("The compressed form is far larger than the payload: compress it again.", "too_large")


def _refuse_surplus(length: int, end: int) -> None:
    if end > length:
        raise TooLarge(f"More than the {length} bytes that were announced for this upload; begin again.", "too_large")

"""Resumable uploads of payloads, content-addressed.

What a person may rely on, whichever hub is killed whenever:

1. An offset that was acknowledged is stored: a piece is durable first, then its row and the offset are committed.
2. A complete upload has its blob: both forms are in the blob store before the row says so. A crash in between leaves
   the row open at its full length; the next request, to any hub, finishes it.
3. Half-written things are resumed or swept, and never served: they have names that no blob has.

Pieces lie where the payloads lie, so that any hub can take the next one. A piece is stored without a lock, under a name
that nobody used before; its row and the new offset are committed only where the upload still is where the piece
begins. So of two connections of one person the slower gets `offset_mismatch`, and none of its bytes are in what is
checked in the end: that is put together from the pieces that have rows, and stored from that very file.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import cast

import structlog
from msgspec import Struct
from sqlalchemy import delete, select, update
from sqlmodel import col

from sdx_hub.adapters.blobs import ENCODINGS, Encoding, room
from sdx_hub.adapters.clock import Clock
from sdx_hub.adapters.storage import Storage
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import ConflictError, NotFound, TooLarge, TrustError, Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.releases import Upload, UploadPiece
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.releases import payload_intake
from sdx_hub.services.releases.upload_orders import check_order, refuse_surplus

UPLOAD_LIFE = timedelta(days=7)
"""An upload that was not finished by then is given up."""
MAX_OPEN_UPLOADS = 256
"""Of one person: so many may lie around half-done."""

_WRITE_BYTES = 1024**2
_FINISHING = 2
_log = structlog.get_logger(__name__)


class Begun(Struct, frozen=True):
    """Answer to `begin`: the payload is there already, or where to go on."""

    exists: bool
    id: str = ""
    offset: int = 0


class Appended(Struct, frozen=True):
    """How far an upload is: bytes that are stored for sure, and whether the payload is stored."""

    offset: int
    complete: bool


class UploadService:
    """Uploads of this process.

    Args:
        database: Where the offsets are.
        clock: For ages.
        storage: Where payloads and their pieces go.
    """

    def __init__(self, database: Database, clock: Clock, storage: Storage) -> None:
        self._database = database
        self._clock = clock
        self._blobs = storage.blobs
        self._pieces = storage.pieces
        self._scratch = storage.scratch
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
        check_order(sha256, length, encoding, decoded_length)
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
                return Begun(exists=False, id=row.id, offset=row.offset)
            if row is not None:  # Compressed anew to another length: what is here is of no use.
                row.state = "failed"
                await uow.session.flush()
                await self._forget_pieces(uow, row.id)
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
        if offset != row.offset:
            raise await self._mismatch(row.id)
        source = self._scratch.path()
        try:
            end, broken = await self._receive(row, offset, stream, source)
            if end > offset:
                await self._store_piece(row.id, offset, end, source)
        finally:
            await asyncio.to_thread(self._scratch.remove, source)
        if broken is not None:
            raise broken
        if end == row.length:
            await self._finished(row)
        return Appended(end, complete=end == row.length)

    async def keep(self, raw: bytes) -> str:
        """Store bytes that the hub holds whole, a manifest for instance; return their digest."""
        sha256 = hashlib.sha256(raw).hexdigest()
        if not await self._stored(sha256):
            source = self._scratch.path()
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
            still_open = select(col(Upload.id)).where(col(Upload.state) == "open")
            await uow.session.execute(delete(UploadPiece).where(col(UploadPiece.upload_id).not_in(still_open)))
            await uow.commit()
        async with self._database.reading() as session:
            wanted = set(await session.scalars(select(col(UploadPiece.name))))
        await self._pieces.sweep(wanted, self._clock.now())
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

    async def _mismatch(self, upload_id: str) -> ConflictError:
        async with self._database.reading() as session:
            current = await session.get(Upload, upload_id)
        offset = current.offset if current is not None else 0
        return ConflictError(f"This upload goes on at byte {offset}.", "offset_mismatch", offset=offset)

    async def _receive(
        self, row: Upload, offset: int, stream: AsyncIterator[bytes], target: Path
    ) -> tuple[int, Exception | None]:
        """Write a piece into a scratch file; return where it ends, and what broke the stream off, if anything."""
        position, pending, broken = offset, bytearray(), None

        async def flush() -> None:
            nonlocal position
            data = bytes(pending)
            pending.clear()
            with room():
                await asyncio.to_thread(_add, target, data)
            position += len(data)

        try:
            async for chunk in stream:
                refuse_surplus(row.length, position + len(pending) + len(chunk))
                pending += chunk
                if len(pending) >= _WRITE_BYTES:
                    await flush()
        except (TooLarge, Unavailable):
            raise
        except Exception as error:  # Whatever the server raises when a client goes away.
            broken = error
        if pending:
            await flush()
        return position, broken

    async def _store_piece(self, upload_id: str, offset: int, end: int, source: Path) -> None:
        """Store a piece, then acknowledge it, if the upload still is where it begins."""
        name = f"{upload_id}/{offset}-{secrets.token_hex(8)}"
        await self._pieces.put(name, source)
        async with self._database.unit_of_work() as uow:
            moved = await uow.session.execute(
                update(Upload)
                .where(col(Upload.id) == upload_id, col(Upload.state) == "open", col(Upload.offset) == offset)
                .values(offset=end)
                .returning(col(Upload.id))
            )
            mine = moved.scalar_one_or_none() is not None
            if mine:
                uow.session.add(UploadPiece(upload_id=upload_id, offset=offset, name=name))
                await uow.commit()
        if not mine:
            await self._pieces.drop([name])
            raise await self._mismatch(upload_id)

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
            source = self._scratch.path()
            try:
                missing = await self._put_together(row, source)
                if missing is None:
                    await self._store(source, row.sha256, cast(Encoding, row.encoding), row.decoded_length)
                elif not await self._stored(row.sha256):  # Another hub may have been faster.
                    await self._go_back(row, missing)
                    raise await self._mismatch(row.id)
            except TrustError as error:
                refusal = error
            finally:
                await asyncio.to_thread(self._scratch.remove, source)
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
                await self._forget_pieces(uow, row.id)
                await uow.commit()
        if refusal is not None:
            raise refusal

    async def _put_together(self, row: Upload, target: Path) -> int | None:
        """Write the pieces into a file; return where the first one begins that is not there as it was stored."""
        async with self._database.reading() as session:
            found = await session.scalars(
                select(UploadPiece).where(col(UploadPiece.upload_id) == row.id).order_by(col(UploadPiece.offset))
            )
            pieces = found.all()
        await asyncio.to_thread(target.touch)
        ends = [piece.offset for piece in pieces[1:]] + [row.length]
        for piece, end in zip(pieces, ends, strict=False):
            try:
                await self._pieces.add_to(target, piece.name)
            except FileNotFoundError:
                return piece.offset
            if (await asyncio.to_thread(target.stat)).st_size != end:
                return piece.offset
        return None if pieces or row.length == 0 else 0

    async def _go_back(self, row: Upload, offset: int) -> None:
        """Have the pieces from `offset` on sent again: the store was lost, or restored from an older backup."""
        async with self._database.unit_of_work() as uow:
            moved = await uow.session.execute(
                update(Upload)
                .where(col(Upload.id) == row.id, col(Upload.state) == "open", col(Upload.offset) == row.length)
                .values(offset=offset)
                .returning(col(Upload.id))
            )
            if moved.scalar_one_or_none() is not None:
                await self._forget_pieces(uow, row.id, offset)
                await uow.commit()

    async def _forget_pieces(self, uow: UnitOfWork, upload_id: str, offset: int = 0) -> None:
        """Remove the rows of pieces from `offset` on, and the pieces themselves once that is committed."""
        forgotten = await uow.session.scalars(
            delete(UploadPiece)
            .where(col(UploadPiece.upload_id) == upload_id, col(UploadPiece.offset) >= offset)
            .returning(col(UploadPiece.name))
        )
        names = forgotten.all()
        uow.after_commit(lambda: self._pieces.drop(names))

    async def _store(self, source: Path, sha256: str, encoding: Encoding, decoded_length: int) -> None:
        """Check a private file, and put it and its other form into the blob store; afterwards both are gone."""
        other: Encoding = "identity" if encoding == "zstd" else "zstd"
        scratch = self._scratch.path()
        try:
            with room():
                if encoding == "zstd":
                    await asyncio.to_thread(payload_intake.unpack_file, source, sha256, decoded_length, scratch)
                else:
                    await asyncio.to_thread(payload_intake.pack_file, source, sha256, scratch)
                await self._blobs.put(sha256, other, scratch)
                await self._blobs.put(sha256, encoding, source)
        finally:
            await asyncio.to_thread(self._scratch.remove, scratch, source)

    async def _stored(self, sha256: str) -> bool:
        return all([await self._blobs.stat(sha256, encoding) is not None for encoding in ENCODINGS])


def _add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)

"""Payloads by content: named by the SHA-256 of the uncompressed bytes, stored once as they are and once compressed.

    AB/SHA256           identity
    AB/SHA256.zst       one zstd frame of the same bytes

`ObjectStoreBlobs` works with every store that obstore has (a folder, S3, memory). `LocalBlobs` is the embedded default:
the same files in the same places, but durable (obstore does not fsync) and read by `pread` (10 to 20 times the bytes
for a CPU-second that obstore's stream gives).
"""

import asyncio
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

import obstore
from obstore.store import LocalStore, ObjectStore

from sdx_hub.domain.errors import NotFound

Encoding = Literal["identity", "zstd"]
ENCODINGS: tuple[Encoding, ...] = ("identity", "zstd")
READ_BYTES = 256 * 1024
"""One piece of a reading: what each download under way holds in memory."""

_PUT_PART_BYTES = 8 * 1024**2
_PUT_PARTS = 2
_SCRATCH_PREFIX = ".incoming-"
_SCRATCH_LIFE_S = 3600
_KEY = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})(\.zst)?")


class BlobStore(Protocol):
    """Immutable bytes. Every method may be called by many tasks at once."""

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        """Bytes of a representation, or None where it is not stored."""
        ...

    def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `start + length` in pieces; fewer where the blob ends before.

        Raises:
            NotFound: It is not stored (code `blob_not_found`).
        """
        ...

    async def put(self, sha256: str, encoding: Encoding, source: Path) -> None:
        """Take a file into the store: afterwards it is stored for good, whole, and the source is gone.

        The caller has checked that the file is what `sha256` names. A representation that is stored already stays as
        it is: another encoder may have compressed the same payload to other bytes, and a device that resumes a
        download must not get half of each.
        """
        ...

    async def delete(self, sha256: str) -> None:
        """Remove every representation; one that is not there is no error."""
        ...

    def stored(self) -> AsyncIterator[tuple[str, Encoding, int]]:
        """Digest, encoding and bytes of every representation that is stored; anything else there is passed over."""
        ...


def key_of(sha256: str, encoding: Encoding) -> str:
    """Where a representation is, relative to the store."""
    return f"{sha256[:2]}/{sha256}{'.zst' if encoding == 'zstd' else ''}"


def named_by(key: str) -> tuple[str, Encoding] | None:
    """What `key_of` made a name of; None where it did not make it."""
    match = _KEY.fullmatch(key)
    return (match[2], "zstd" if match[3] else "identity") if match else None


class ObjectStoreBlobs:
    """Blobs in an object store.

    Args:
        store: Of obstore; its `put` appears whole or not at all.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        try:
            return (await obstore.head_async(self._store, key_of(sha256, encoding)))["size"]
        except FileNotFoundError:
            return None

    async def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncIterator[bytes]:
        size = await self.stat(sha256, encoding)
        if size is None:
            raise _not_found(sha256)
        end = min(start + length, size)
        if start >= end:
            return  # Stores refuse an empty range.
        found = await obstore.get_async(self._store, key_of(sha256, encoding), options={"range": (start, end)})
        async for piece in found.stream(min_chunk_size=READ_BYTES):
            yield bytes(piece)

    async def put(self, sha256: str, encoding: Encoding, source: Path) -> None:
        if await self.stat(sha256, encoding) is None:
            key = key_of(sha256, encoding)
            await obstore.put_async(self._store, key, source, chunk_size=_PUT_PART_BYTES, max_concurrency=_PUT_PARTS)
        await asyncio.to_thread(source.unlink)

    async def delete(self, sha256: str) -> None:
        for encoding in ENCODINGS:
            try:
                await obstore.delete_async(self._store, key_of(sha256, encoding))
            except FileNotFoundError:
                continue

    async def stored(self) -> AsyncIterator[tuple[str, Encoding, int]]:
        async for page in obstore.list(self._store):
            for each in page:
                if (named := named_by(each["path"])) is not None:
                    yield *named, each["size"]


class LocalBlobs(ObjectStoreBlobs):
    """Blobs in a folder of this machine.

    Args:
        folder: Made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        super().__init__(LocalStore(folder))
        self._folder = folder
        for left in folder.glob(f"*/{_SCRATCH_PREFIX}*"):
            with suppress(FileNotFoundError):
                if left.stat().st_mtime < time.time() - _SCRATCH_LIFE_S:
                    left.unlink()  # A copy that a crash interrupted.

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        try:
            return (self._folder / key_of(sha256, encoding)).stat().st_size
        except FileNotFoundError:
            return None

    async def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncIterator[bytes]:
        try:
            handle = os.open(self._folder / key_of(sha256, encoding), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _not_found(sha256) from None
        try:
            end = start + length
            while start < end and (
                piece := await asyncio.to_thread(os.pread, handle, min(READ_BYTES, end - start), start)
            ):
                start += len(piece)
                yield piece
        finally:
            os.close(handle)

    async def put(self, sha256: str, encoding: Encoding, source: Path) -> None:
        await asyncio.to_thread(self._take, source, self._folder / key_of(sha256, encoding))

    def _take(self, source: Path, target: Path) -> None:
        if target.exists():
            sync_folder(target.parent)  # Whoever put it may be a moment away from that.
            source.unlink()
            return
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True, mode=0o750)
            sync_folder(self._folder)
        sync_file(source)
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # The blobs are on a file system of their own.
                raise
            scratch = target.with_name(f"{_SCRATCH_PREFIX}{secrets.token_hex(8)}")
            try:
                shutil.copyfile(source, scratch)
                sync_file(scratch)
                scratch.replace(target)
            finally:
                scratch.unlink(missing_ok=True)
            source.unlink()
        sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Return when the file's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Return when the names in the folder are on the disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _not_found(sha256: str) -> NotFound:
    return NotFound(f"There is no blob {sha256[:12]}... here.", "blob_not_found")

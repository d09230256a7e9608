"""Payloads by content: named by the SHA-256 of the uncompressed bytes, stored once as they are and once compressed.

    AB/SHA256           identity
    AB/SHA256.zst       one zstd frame of the same bytes

`LocalBlobs` is the embedded default: files, durable once they are there, read by `pread` (10 times the bytes for a
CPU-second that an object store's stream gives). `sdx_hub.adapters.object_blobs` has the same in an object store.
"""

import asyncio
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol

from sdx_hub.domain.errors import NotFound, Unavailable
from sdx_hub.observing import BLOB_STORE_ERRORS, observed

Encoding = Literal["identity", "zstd"]
ENCODINGS: tuple[Encoding, ...] = ("identity", "zstd")
READ_BYTES = 256 * 1024
"""One piece of a reading: what each download under way holds in memory."""

_SCRATCH_PREFIX = ".incoming-"
_SCRATCH_LIFE_S = 3600
_KEY = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})(\.zst)?")


class BlobReader(Protocol):
    """What serving needs. Every method may be called by many tasks at once.

    All methods raise `Unavailable` where the store does not answer (code `blob_store_unavailable`).
    """

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        """Bytes of a representation, or None where it is not stored."""
        ...

    def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Bytes `start` to `start + length` in pieces; fewer where the blob ends before.

        Args:
            sha256: Of the payload.
            encoding: Which representation.
            start: Lies in the blob.
            length: None are read where it is 0.

        Raises:
            NotFound: It is not stored (code `blob_not_found`).
        """
        ...


class BlobStore(BlobReader, Protocol):
    """Immutable bytes."""

    async def put(self, sha256: str, encoding: Encoding, source: Path) -> None:
        """Take a file into the store: afterwards it is stored for good, whole, and the source is gone.

        The caller has checked that the file is what `sha256` names. A representation that is stored already stays as
        it is: another encoder may have compressed the same payload to other bytes, and a device that resumes a
        download must not get half of each.

        Raises:
            Unavailable: The store is full (code `storage_full`).
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


class LocalBlobs:
    """Blobs in a folder of this machine.

    Args:
        folder: Made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
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

    async def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncGenerator[bytes, None]:
        try:
            handle = os.open(self._folder / key_of(sha256, encoding), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise not_found(sha256) from None
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
        with room():
            await asyncio.to_thread(self._take, source, self._folder / key_of(sha256, encoding))

    async def delete(self, sha256: str) -> None:
        for encoding in ENCODINGS:
            (self._folder / key_of(sha256, encoding)).unlink(missing_ok=True)

    async def stored(self) -> AsyncIterator[tuple[str, Encoding, int]]:
        for folder in await asyncio.to_thread(lambda: sorted(self._folder.iterdir())):
            for found in await asyncio.to_thread(self._stored_in, folder):
                yield found

    def _stored_in(self, folder: Path) -> list[tuple[str, Encoding, int]]:
        found: list[tuple[str, Encoding, int]] = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            named = named_by(f"{folder.name}/{path.name}")
            with suppress(FileNotFoundError):
                if named is not None:
                    found.append((*named, path.stat().st_size))
        return found

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
            _name(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:  # The blobs are on a file system of their own.
                raise
            scratch = target.with_name(f"{_SCRATCH_PREFIX}{secrets.token_hex(8)}")
            try:
                shutil.copyfile(source, scratch)
                sync_file(scratch)
                _name(scratch, target)
            finally:
                scratch.unlink(missing_ok=True)
        sync_folder(target.parent)
        source.unlink()


def _name(source: Path, target: Path) -> None:
    """Give the file its name, unless another process just gave it to another one: a rename would replace that."""
    with suppress(FileExistsError):
        target.hardlink_to(source)


@contextmanager
def room() -> Iterator[None]:
    """Turn a full disk into an answer that says so.

    Raises:
        Unavailable: The disk is full (code `storage_full`).
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        observed.count(BLOB_STORE_ERRORS)
        raise Unavailable(
            "The hub's disk is full. Nothing is lost; make room there and run the same command again.", "storage_full"
        ) from error


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


def not_found(sha256: str) -> NotFound:
    return NotFound(f"There is no blob {sha256[:12]}... here.", "blob_not_found")

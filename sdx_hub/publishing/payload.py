"""Payloads: canonical bytes, compressed for transport and hashed in one pass, in bounded memory."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import zstandard
from msgspec import Struct

from firmware_schemas.limits import MAX_PAYLOAD_BYTES
from sdx_hub.publishing import archive, sources
from sdx_hub.publishing.errors import BuildRefused, BundleRefused

ZSTD_LEVEL = 10
MAX_WINDOW_BYTES = 8 * 1024**2
"""What a device sets aside for decompression; level 10 uses 4 MiB."""
CHUNK_BYTES = archive.CHUNK_BYTES

Progress = Callable[[int], None]
"""Called with the number of bytes that were just done."""


def no_progress(_: int) -> None:
    """Nobody watches."""


class Source(Struct, frozen=True):
    """Canonical bytes of a payload before they are read.

    Attributes:
        length: Bytes; known before the first is read, so that the zstd frame can carry it.
        chunks: Gives the bytes in bounded pieces.
    """

    length: int
    chunks: Callable[[], Iterable[bytes]]


class Packed(Struct, frozen=True):
    """A payload on the disk, compressed.

    Attributes:
        sha256, length: Of the uncompressed canonical payload.
    """

    sha256: str
    length: int
    path: Path


def source(kind: str, path: Path) -> Source:
    """The canonical bytes of a component.

    Args:
        kind: Component type: `directory` is an archive, everything else one file.
        path: Folder or tar file for `directory`, else a file.

    Raises:
        BuildRefused: See `publishing.errors`.
    """
    if kind == "directory":
        entries = sources.folder_entries(path) if path.is_dir() else sources.tar_entries(_regular(path))
        return Source(archive.length(entries), lambda: archive.stream(entries))
    size = _regular(path).stat().st_size
    if size > MAX_PAYLOAD_BYTES:
        raise BuildRefused(f"{path} has {size} bytes; {MAX_PAYLOAD_BYTES} are allowed.", "archive_too_large")
    return Source(size, lambda: _file_chunks(path, size))


def pack(payload: Source, into: Path, progress: Progress = no_progress) -> Packed:
    """Compress and hash a payload into a new file in the folder `into`, named by its digest.

    Raises:
        BuildRefused: It changed while it was read (code `source_changed`).
    """
    scratch = into / ".packing"
    digest = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)
    try:
        with (
            scratch.open("wb") as file,
            compressor.stream_writer(file, size=payload.length, closefd=False) as writer,
        ):
            for chunk in payload.chunks():
                digest.update(chunk)
                writer.write(chunk)
                progress(len(chunk))
    except zstandard.ZstdError as error:
        raise BuildRefused("A payload changed while it was read: build again.", "source_changed") from error
    packed = Packed(digest.hexdigest(), payload.length, into / f"{digest.hexdigest()}.zst")
    scratch.replace(packed.path)
    return packed


def unpack(compressed: BinaryIO, sha256: str, length: int, progress: Progress = no_progress) -> Iterator[bytes]:
    """Decompress a payload with a cap on bytes and on memory; raise at the end if the digest is another.

    Raises:
        BundleRefused: It has more bytes than `length` (`decompression_bomb`), is no single zstd frame of a bounded
            window (`bundle_invalid`), or is something else than `sha256` says (`payload_digest_mismatch`).
    """
    digest, total = hashlib.sha256(), 0
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    name = f"The payload {sha256[:12]}..."
    try:
        with decompressor.stream_reader(compressed, read_size=128 * 1024, closefd=False) as reader:
            while chunk := reader.read(CHUNK_BYTES):
                total += len(chunk)
                if total > length:
                    raise BundleRefused(
                        f"{name} unpacks to more than the {length} bytes that the manifest says.", "decompression_bomb"
                    )
                digest.update(chunk)
                progress(len(chunk))
                yield chunk
    except zstandard.ZstdError as error:
        raise BundleRefused(f"{name} is no zstd frame that a device could read: {error}.", "bundle_invalid") from error
    if total != length or digest.hexdigest() != sha256:
        raise BundleRefused(
            f"{name} is not what the manifest names: {total} bytes with the digest {digest.hexdigest()[:12]}... "
            "Do not publish this file; build or fetch it again.",
            "payload_digest_mismatch",
        )


def _regular(path: Path) -> Path:
    if not path.is_file():
        what = "is a folder: say `directory`, or name a file" if path.is_dir() else "is no file"
        raise BuildRefused(f"{path} {what}.", "source_missing")
    return path


def _file_chunks(path: Path, size: int) -> Iterator[bytes]:
    entry = archive.Entry(path.name, "file", size=size)
    read = 0
    with path.open("rb") as file:
        while chunk := file.read(min(CHUNK_BYTES, entry.size - read + 1)):
            read += len(chunk)
            if read > size:
                break
            yield chunk
    if read != size:
        raise BuildRefused(f"{path} changed while it was read: build again.", "source_changed")


@contextmanager
def replacing(target: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all, and survives a power cut once it is there."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

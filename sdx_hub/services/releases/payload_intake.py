"""From the bytes that were uploaded to both stored forms of a payload, in bounded memory: runs in a thread.

Whatever is refused here is refused for good: the bytes are not what the uploader said.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

import zstandard

from sdx_hub.publishing.errors import BundleRefused
from sdx_hub.publishing.payload import CHUNK_BYTES, unpack

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_LEVEL = 3
_MAX_HEADER_BYTES = 18
_RLE = 1


def unpack_file(compressed: Path, sha256: str, decoded_length: int, target: Path) -> None:
    """Write the payload of a zstd upload to `target`.

    Raises:
        BundleRefused: `decompression_bomb`, `bundle_invalid` or `payload_digest_mismatch`.
    """
    with compressed.open("rb") as source, target.open("wb") as into:
        _check_one_frame(source)
        source.seek(0)
        for chunk in unpack(source, sha256, decoded_length):
            into.write(chunk)


def pack_file(plain: Path, sha256: str, target: Path) -> None:
    """Check an identity upload, and write its compressed form to `target`.

    Raises:
        BundleRefused: It is something else than `sha256` says (code `payload_digest_mismatch`).
    """
    digest = hashlib.sha256()
    size = plain.stat().st_size
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True, write_checksum=True)
    with (
        plain.open("rb") as source,
        target.open("wb") as into,
        compressor.stream_writer(into, size=size, closefd=False) as writer,
    ):
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    if digest.hexdigest() != sha256:
        raise BundleRefused(
            f"The upload has the digest {digest.hexdigest()[:12]}..., not {sha256[:12]}...: the file changed or was "
            "damaged on its way. Upload it again.",
            "payload_digest_mismatch",
        )


def _check_one_frame(file: BinaryIO) -> None:
    """Refuse anything after the first zstd frame: decoders ignore it, but it would be stored and served.

    Walks the block headers (RFC 8878, section 3.1.1.2) without decompressing.
    """
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(_MAX_HEADER_BYTES)
    try:
        if not head.startswith(_ZSTD_MAGIC):
            raise _no_frame("it does not start like one")
        has_checksum = zstandard.get_frame_parameters(head).has_checksum
        position = zstandard.frame_header_size(head)
    except zstandard.ZstdError as error:
        raise _no_frame(str(error)) from error
    last = False
    while not last:
        file.seek(position)
        block = file.read(3)
        if len(block) < 3:
            raise _no_frame("it ends too early")
        header = int.from_bytes(block, "little")
        last = bool(header & 1)
        position += 3 + (1 if header >> 1 & 3 == _RLE else header >> 3)
    position += 4 if has_checksum else 0
    if position != size:
        raise _no_frame(f"it has {size} bytes where the frame has {position}")


def _no_frame(why: str) -> BundleRefused:
    return BundleRefused(f"The upload is not exactly one zstd frame: {why}. Compress it again.", "bundle_invalid")

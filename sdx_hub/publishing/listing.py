"""Reading a canonical archive back: what is in it, and whether its bytes are the ones that `archive.stream` writes.

Each header is taken apart, checked by the same rules that the packer uses, written again, and compared. So nothing is
accepted here that the packer would not have made, and memory stays bounded whatever the archive holds.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator

from msgspec import Struct

from firmware_schemas.limits import MAX_ARCHIVE_ENTRIES
from sdx_hub.publishing import archive
from sdx_hub.publishing.archive import BLOCK, Entry
from sdx_hub.publishing.errors import BuildRefused, BundleRefused

_MAX_EXTENSION_BYTES = 64 * 1024
_EXTENSION = b"x"


class Listed(Struct, frozen=True):
    """One entry of an archive that was read.

    Attributes:
        sha256: Of a file's content; empty for folders and links.
    """

    entry: Entry
    sha256: str = ""


def read(chunks: Iterable[bytes]) -> Iterator[Listed]:
    """Read a canonical archive to its end.

    Args:
        chunks: The bytes of the archive, in pieces of any size. They are used up completely.

    Raises:
        BundleRefused: It has another form than the canonical one (`archive_not_canonical`), or breaks a rule of
            `archive.normal_path` or `archive.check_link` (their codes).
    """
    reader = _Reader(chunks)
    folders, last, count, total = {""}, b"", 0, 0
    while any(block := reader.exactly(BLOCK)):
        raw = block + (_extension(block, reader) if block[156:157] == _EXTENSION else b"")
        entry = _entry(raw)
        count += 1
        if count > MAX_ARCHIVE_ENTRIES:
            raise BundleRefused(f"The archive has more than {MAX_ARCHIVE_ENTRIES} entries.", "archive_too_large")
        if archive.header(entry) != raw:
            raise _refused(f"The entry {entry.path[:200]!r} is not written as `sdx release build` writes it.")
        if entry.order <= last:
            raise _refused(f"The entry {entry.path[:200]!r} is out of order or there twice.")
        if entry.path.rpartition("/")[0] not in folders:
            raise _refused(f"The folder of {entry.path[:200]!r} is not in the archive.")
        last = entry.order
        total += len(raw)
        if entry.kind == "folder":
            folders.add(entry.path)
        if entry.kind != "file":
            yield Listed(entry)
            continue
        digest = hashlib.sha256()
        for piece in reader.take(entry.size):
            digest.update(piece)
        padding = -entry.size % BLOCK
        if any(reader.exactly(padding)):
            raise _refused(f"The padding after {entry.path[:200]!r} is not zero.")
        total += entry.size + padding
        yield Listed(entry, digest.hexdigest())
    end = BLOCK + -(total + 2 * BLOCK) % tarfile.RECORDSIZE
    if reader.rest() != bytes(end):
        raise _refused("The end of the archive is not as `sdx release build` writes it.")


def _extension(block: bytes, reader: "_Reader") -> bytes:
    digits = block[124:135]
    if digits.strip(b"01234567") or not digits:
        raise _refused("An extension header has no readable size.")
    length = int(digits, 8)
    if length > _MAX_EXTENSION_BYTES:
        raise BundleRefused(f"An extension header has {length} bytes.", "archive_name_too_long")
    return reader.exactly(-(-length // BLOCK) * BLOCK) + reader.exactly(BLOCK)


def _entry(raw: bytes) -> Entry:
    try:
        with tarfile.open(fileobj=io.BytesIO(raw + bytes(2 * BLOCK)), mode="r:", errorlevel=2) as tar:
            member = tar.next()
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise _refused(f"The archive has a header that cannot be read: {error}.") from error
    if member is None:
        raise _refused("The archive has a header that describes nothing.")
    try:
        path = archive.normal_path(member.name)
        if member.isdir():
            return Entry(path, "folder")
        if member.issym():
            return Entry(path, "link", link=archive.check_link(path, member.linkname))
    except BuildRefused as error:
        raise BundleRefused(f"The archive is refused: {error}", error.code) from error
    if not member.isreg() or member.issparse():
        raise BundleRefused(
            f"The archive holds {path[:200]!r} of the type {member.type!r}: files, folders and symbolic links only.",
            "archive_bad_entry",
        )
    return Entry(path, "file", bool(member.mode & 0o100), member.size)


def _refused(sentence: str) -> BundleRefused:
    return BundleRefused(f"{sentence} A device would refuse it: build the release anew.", "archive_not_canonical")


class _Reader:
    """Exact reads from a stream of pieces."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        while size:
            if not self._held:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise _refused("The archive is cut off.")
                self._held = memoryview(chunk)
                continue
            piece, self._held = self._held[:size], self._held[size:]
            size -= len(piece)
            yield piece

    def exactly(self, size: int) -> bytes:
        return b"".join(self.take(size))

    def rest(self) -> bytes:
        """What is left, at most a little more than the longest end that an archive can have; reads to the end."""
        left = bytes(self._held)
        for chunk in self._chunks:
            if len(left) <= 2 * tarfile.RECORDSIZE:
                left += chunk
        return left

"""The canonical tar of a `directory` component: packing a folder, and unpacking a stream safely.

The canonical form makes a folder's digest reproducible: what is on the disk can be packed again and compared with what
was signed. It is what the standard library's tarfile writes in PAX format for entries sorted by path, with folders and
executables 0755, other files 0644, no owner, no time; no entry for the root.

Unpacking is written out here instead of using tarfile, because tarfile reads extension headers of any size into
memory, and because every rule below is a refusal with a code. Sources: POSIX.1-2017 pax, "ustar Interchange Format";
the attacks are those of the zip-slip family.
"""

import os
import stat
import tarfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from device_agent.core.errors import ArchiveError
from device_agent.ports.storage import Storage
from firmware_schemas.limits import MAX_ARCHIVE_DEPTH, MAX_ARCHIVE_ENTRIES, MAX_ARCHIVE_PATH_CHARS

_BLOCK = 512
_CHUNK_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
_MAX_PAX_BYTES = 4 * MAX_ARCHIVE_PATH_CHARS * 2 + 1024
_PAX_KEYS = frozenset({"path", "linkpath", "size"})
_FILE, _FOLDER, _LINK, _PAX = b"0", b"5", b"2", b"x"
_FILE_MODES = {0o755, 0o644}
_MODE_FOLDER = 0o755


class Entry(NamedTuple):
    """One entry of an archive; `text` is the target of a symbolic link."""

    path: str
    kind: bytes
    mode: int
    size: int
    text: str


def pack(folder: Path, write: Callable[[bytes], object]) -> None:
    """Write the canonical tar of a folder to `write`, reading files in chunks.

    Raises:
        ArchiveError: It holds something that has no canonical form (a device, a socket).
        OSError: It cannot be read.
    """

    class _Writer:
        def write(self, data: bytes) -> int:
            write(data)
            return len(data)

        def tell(self) -> int:
            return 0

    with tarfile.open(fileobj=_Writer(), mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:  # type: ignore[call-overload]
        for relative in sorted(_names_below(folder)):
            path = folder / relative
            status = path.lstat()
            info = tarfile.TarInfo(relative)
            info.mode = 0o755
            if stat.S_ISLNK(status.st_mode):
                info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, str(path.readlink())
                archive.addfile(info)
            elif stat.S_ISDIR(status.st_mode):
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            elif stat.S_ISREG(status.st_mode):
                info.size = status.st_size
                info.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
                with path.open("rb") as content:
                    archive.addfile(info, content)
            else:
                raise ArchiveError(f"{relative!r} is neither a file, a folder nor a symbolic link.")


def _names_below(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        for name in folders + files:
            yield os.path.relpath(os.path.join(parent, name), folder)  # noqa: PTH118 - the fast spelling


def unpack(chunks: Iterator[bytes], folder: Path, storage: Storage) -> None:
    """Unpack a canonical tar into an empty folder. Nothing is synced; the caller syncs the whole tree once.

    Args:
        chunks: The archive; already bounded in size and verified by digest.
        folder: Exists and is empty.
        storage: Where everything is written.

    Raises:
        ArchiveError: archive_climbs, archive_link_escapes, archive_name_too_long, archive_too_large,
            archive_bad_entry. The folder then holds a part, and is not current.
    """
    reader = _Reader(chunks)
    folders = {""}
    last = ""
    for number, entry in enumerate(_entries(reader), 1):
        if number > MAX_ARCHIVE_ENTRIES:
            raise ArchiveError(f"The archive has more than {MAX_ARCHIVE_ENTRIES} entries.", "archive_too_large")
        _check_path(entry.path)
        # Sorted and unique: no second entry can replace a folder by a link and then write through it.
        if entry.path <= last:
            raise ArchiveError(f"{entry.path[:200]!r} is out of order or listed twice.")
        if entry.path.rpartition("/")[0] not in folders:
            raise ArchiveError(f"The folder of {entry.path[:200]!r} is not in the archive.")
        last = entry.path
        target = folder / entry.path
        if entry.kind == _FOLDER:
            storage.make_folder(target, _MODE_FOLDER)
            folders.add(entry.path)
        elif entry.kind == _LINK:
            _check_link(entry)
            storage.symlink(entry.text, target)
        else:
            storage.write_stream(target, reader.take(entry.size), entry.mode)
            reader.skip_padding(entry.size)


def _entries(reader: "_Reader") -> Iterator[Entry]:
    """Headers in order; the caller consumes a file's content before asking for the next."""
    while True:
        header = reader.exactly(_BLOCK)
        if not any(header):
            reader.only_zeros()
            return
        extended: dict[str, str] = {}
        if _kind(header) == _PAX:
            size = _octal(header[124:136])
            if size > _MAX_PAX_BYTES:
                raise ArchiveError(f"An extension header has {size} bytes.", "archive_name_too_long")
            extended = _pax(reader.exactly(size))
            reader.skip_padding(size)
            header = reader.exactly(_BLOCK)
        yield _entry(header, extended)


def _entry(header: bytes, extended: dict[str, str]) -> Entry:
    kind = _kind(header)
    path = extended.get("path", _text(header[0:100]))
    if kind == _FOLDER:
        path = path.removesuffix("/")
    if kind not in (_FILE, _FOLDER, _LINK):
        raise ArchiveError(f"{path[:200]!r} has the entry type {kind!r}: files, folders and symbolic links only.")
    mode = _octal(header[100:108])
    size = _octal(header[124:136]) if "size" not in extended else _decimal(extended["size"])
    if (kind == _FILE and mode not in _FILE_MODES) or (kind != _FILE and size):
        raise ArchiveError(f"{path[:200]!r} has the mode {mode:o} and size {size}: that is not the canonical form.")
    return Entry(path, kind, mode, size, extended.get("linkpath", _text(header[157:257])))


def _kind(header: bytes) -> bytes:
    if header[257:265] != b"ustar\x0000":
        raise ArchiveError("This is not a POSIX tar archive.")
    # Header checksum: the sum of all bytes, its own field counted as spaces.
    if sum(header[:148]) + 8 * 32 + sum(header[156:]) != _octal(header[148:156]):
        raise ArchiveError("A header of the archive has a wrong checksum.")
    if header[345] != 0:
        raise ArchiveError("A header uses the prefix field: that is not the canonical form.")
    return header[156:157]


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise ArchiveError("A header of the archive holds a number that is not octal.")
    return int(digits, 8)


def _decimal(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise ArchiveError("An extension header holds a size that is no number.")
    return int(text)


def _text(field: bytes) -> str:
    return _utf8(field.split(b"\0", 1)[0])


def _utf8(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArchiveError("A name in the archive is not UTF-8.") from error


def _pax(body: bytes) -> dict[str, str]:
    r"""Records `LENGTH KEY=VALUE\n`; only the keys that the canonical form uses."""
    found: dict[str, str] = {}
    rest = body
    while rest:
        length_text, space, _after = rest.partition(b" ")
        length = _decimal(length_text.decode("ascii", "replace")) if space else 0
        record, rest = rest[len(length_text) + 1 : length], rest[length:]
        key, equals, value = record.partition(b"=")
        if length <= len(length_text) or not equals or not value.endswith(b"\n"):
            raise ArchiveError("An extension header is malformed.")
        name = _utf8(key)
        if name not in _PAX_KEYS or name in found:
            raise ArchiveError(f"An extension header holds {name[:40]!r}: that is not the canonical form.")
        found[name] = _utf8(value[:-1])
    return found


def _check_path(path: str) -> None:
    """Refuse what could leave the folder, hide, or be too much for a file system."""
    parts = path.split("/")
    shown = path[:200]
    if len(path) > MAX_ARCHIVE_PATH_CHARS or len(parts) > MAX_ARCHIVE_DEPTH + 1:
        raise ArchiveError(f"{shown!r} is too long or too deep.", "archive_name_too_long")
    if any(len(part.encode()) > _MAX_NAME_BYTES for part in parts):
        raise ArchiveError(f"{shown!r} has a name of more than {_MAX_NAME_BYTES} bytes.", "archive_name_too_long")
    if path.startswith("/") or ".." in parts:
        raise ArchiveError(f"{shown!r} climbs out of the component's folder.", "archive_climbs")
    if not all(parts) or "." in parts or "\0" in path or unicodedata.normalize("NFC", path) != path:
        raise ArchiveError(f"{shown!r} is not a canonical path.")


def _check_link(entry: Entry) -> None:
    """Refuse a link that leads out of the folder, also by way of another link.

    `..` is allowed only at the start: there it walks real folders of this archive. After a name it could walk a link's
    target, and a lexical check would be wrong about where that is.
    """
    parts = entry.text.split("/")
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    depth = entry.path.count("/")
    escapes = entry.text.startswith("/") or ups > depth or ".." in parts[ups:]
    if escapes:
        raise ArchiveError(
            f"The link {entry.path[:200]!r} leads out of the component's folder.", "archive_link_escapes"
        )
    if not all(parts) or "\0" in entry.text or len(entry.text) > MAX_ARCHIVE_PATH_CHARS:
        raise ArchiveError(f"The link {entry.path[:200]!r} has no canonical target.")


class _Reader:
    """Exact reads from a stream of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = memoryview(b"")

    def take(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes in pieces.

        Raises:
            ArchiveError: The stream ends before.
        """
        left = size
        while left:
            if not self._held:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise ArchiveError("The archive is cut off.")
                self._held = memoryview(chunk)
                continue
            piece, self._held = self._held[:left], self._held[left:]
            left -= len(piece)
            yield bytes(piece)

    def exactly(self, size: int) -> bytes:
        return b"".join(self.take(size))

    def skip_padding(self, size: int) -> None:
        if any(self.exactly(-size % _BLOCK)):
            raise ArchiveError("The padding of the archive is not zero.")

    def only_zeros(self) -> None:
        """The rest of the stream is the end of the archive."""
        while True:
            if any(self._held):
                raise ArchiveError("Something follows the end of the archive.")
            chunk = next(self._chunks, None)
            if chunk is None:
                return
            self._held = memoryview(chunk)

"""The canonical archive of a `directory` component: the same tree gives the same bytes, everywhere.

Rules (the device refuses anything else, and re-creates these bytes from its disk to hash them):

1. Entries are sorted by their path's UTF-8 bytes; every folder below the root has an entry, the root has none.
2. Folders are 0755; files 0755 if their owner may execute them, else 0644; links 0777. Owner 0, no names, time 0.
3. Paths are NFC UTF-8, relative, without `.` or `..`.
4. A symbolic link is relative, has `..` only in front, and stays inside. No hard links, no special files.
5. POSIX pax as Python's `tarfile` writes it; two zero blocks and padding to 10,240 bytes at the end.
"""

import tarfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Literal

from msgspec import Struct

from firmware_schemas.limits import (
    MAX_ARCHIVE_DEPTH,
    MAX_ARCHIVE_ENTRIES,
    MAX_ARCHIVE_PATH_CHARS,
    MAX_PAYLOAD_BYTES,
)
from sdx_hub.publishing.errors import BuildRefused

BLOCK = tarfile.BLOCKSIZE
CHUNK_BYTES = 1024 * 1024

Kind = Literal["folder", "file", "link"]
Opener = Callable[[], AbstractContextManager[BinaryIO]]


class Entry(Struct, frozen=True):
    """One entry of the archive.

    Attributes:
        link: Target of a `link`.
        size: Bytes of a `file`.
        open: Gives the content of a `file`.
    """

    path: str
    kind: Kind
    executable: bool = False
    size: int = 0
    link: str = ""
    open: Opener | None = None

    @property
    def order(self) -> bytes:
        return self.path.encode()


def normal_path(text: str) -> str:
    """A path as the archive holds it: NFC, without a leading `./` or a trailing slash.

    Raises:
        BuildRefused: It climbs or is absolute (`archive_climbs`), is too long (`archive_name_too_long`), too deep
            (`archive_too_deep`), or is no clean UTF-8 (`archive_bad_name`).
    """
    if len(text) > MAX_ARCHIVE_PATH_CHARS:
        raise BuildRefused(
            f"The path {text[:60]!r}... has {len(text)} characters; {MAX_ARCHIVE_PATH_CHARS} are allowed.",
            "archive_name_too_long",
        )
    path = text.removeprefix("./").rstrip("/") if text != "/" else text
    if path.startswith("/") or ".." in path.split("/"):
        raise BuildRefused(
            f"The path {text!r} leads out of the folder that it is in. Remove it from the source.", "archive_climbs"
        )
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise BuildRefused(f"The file name {text!r} is not UTF-8: rename it.", "archive_bad_name") from error
    parts = path.split("/")
    if any(part in {"", "."} for part in parts) or any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise BuildRefused(f"The path {text!r} is not clean: rename it.", "archive_bad_name")
    if any(len(part.encode()) > 255 for part in parts):
        raise BuildRefused(
            f"A name in {text[:60]!r} has more than 255 bytes: no Linux file system can hold it.",
            "archive_name_too_long",
        )
    if len(parts) > MAX_ARCHIVE_DEPTH:
        raise BuildRefused(f"{text!r} is more than {MAX_ARCHIVE_DEPTH} folders deep.", "archive_too_deep")
    return unicodedata.normalize("NFC", path)


def check_link(path: str, target: str) -> str:
    """Return the target of the symbolic link at `path`, NFC and without empty or `.` steps.

    Raises:
        BuildRefused: It is absolute or leads out (code `archive_link_escapes`), is too long, or is not clean.
    """
    if len(target) > MAX_ARCHIVE_PATH_CHARS:
        raise BuildRefused(f"The link {path!r} has a target of {len(target)} characters.", "archive_name_too_long")
    try:
        target.encode()
    except UnicodeEncodeError as error:
        raise BuildRefused(f"The target of the link {path!r} is not UTF-8.", "archive_bad_name") from error
    parts = [part for part in target.split("/") if part not in {"", "."}]
    climbs = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or climbs > path.count("/"):
        raise BuildRefused(
            f"The link {path!r} points to {target!r}, out of the component: links must be relative and stay inside.",
            "archive_link_escapes",
        )
    if not parts or ".." in parts[climbs:] or "\0" in target:
        # `a/../..` is harmless or not depending on whether `a` is a link itself: only the plain form is allowed.
        raise BuildRefused(
            f"The link {path!r} points to {target!r}: write it without '..' after the first name.",
            "archive_link_escapes",
        )
    return unicodedata.normalize("NFC", "/".join(parts))


def header(entry: Entry) -> bytes:
    """The header block or blocks of an entry."""
    info = tarfile.TarInfo(entry.path)
    if entry.kind == "folder":
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    elif entry.kind == "link":
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, entry.link
    else:
        info.type, info.mode, info.size = tarfile.REGTYPE, 0o755 if entry.executable else 0o644, entry.size
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def complete(entries: Iterable[Entry]) -> list[Entry]:
    """Sort the entries, add the folders that nobody listed, and check the tree as a whole.

    Raises:
        BuildRefused: A path is there twice, or a file has something below it (`archive_bad_entry`); too many entries
            or bytes (`archive_too_large`).
    """
    tree: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in tree and not (tree[entry.path].kind == entry.kind == "folder"):
            raise BuildRefused(
                f"{entry.path!r} is there twice (file names are compared in Unicode's NFC form).", "archive_bad_entry"
            )
        tree[entry.path] = entry
        if len(tree) > MAX_ARCHIVE_ENTRIES:
            raise BuildRefused(f"There are more than {MAX_ARCHIVE_ENTRIES} entries.", "archive_too_large")
    for path in list(tree):
        parent = path.rpartition("/")[0]
        while parent and parent not in tree:
            tree[parent] = Entry(parent, "folder")
            parent = parent.rpartition("/")[0]
        if parent and tree[parent].kind != "folder":
            raise BuildRefused(f"{path!r} is below {parent!r}, which is no folder.", "archive_bad_entry")
    ordered = sorted(tree.values(), key=lambda entry: entry.order)
    if length(ordered) > MAX_PAYLOAD_BYTES:
        raise BuildRefused(f"The component has more than {MAX_PAYLOAD_BYTES} bytes.", "archive_too_large")
    return ordered


def length(entries: Iterable[Entry]) -> int:
    """Bytes of the archive that `stream` will give."""
    total = 2 * BLOCK
    for entry in entries:
        total += len(header(entry)) + -(-entry.size // BLOCK) * BLOCK
    return -(-total // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def stream(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The bytes of the archive, in bounded pieces.

    Raises:
        BuildRefused: A file changed while it was read (code `source_changed`).
    """
    total = 0
    for entry in entries:
        block = header(entry)
        yield block
        total += len(block)
        if entry.kind == "file" and entry.open is not None:
            read = 0
            with entry.open() as file:
                while chunk := file.read(min(CHUNK_BYTES, entry.size - read + 1)):
                    read += len(chunk)
                    if read > entry.size:
                        break
                    yield chunk
            if read != entry.size:
                raise BuildRefused(f"{entry.path!r} changed while it was read: build again.", "source_changed")
            padding = -read % BLOCK
            if padding:
                yield bytes(padding)
            total += read + padding
    end = 2 * BLOCK
    yield bytes(end + -(total + end) % tarfile.RECORDSIZE)

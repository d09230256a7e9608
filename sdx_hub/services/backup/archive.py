"""A backup file that is read: every byte of it is compared with its index before anything of it is used."""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from io import BufferedReader
from typing import TypeVar

import msgspec
from msgspec import Struct

from sdx_hub.domain.errors import BadInput
from sdx_hub.services.backup.form import (
    BLOCK_BYTES,
    FORM,
    HEADER,
    INDEX,
    PIECE_BYTES,
    SETTINGS,
    Entry,
    Form,
    Header,
    Index,
    Progress,
    damaged,
    entry_header,
    is_key,
    padding,
    payload_of,
    table_of,
)

_MAX_HEADER_BYTES = 1024**2
_MAX_INDEX_BYTES = 512 * 1024**2
_MAX_HELD_BYTES = 256 * 1024**2
"""Of an entry that is read at once: a piece of a table, a key, the settings."""
T = TypeVar("T")


class _Place(Struct, frozen=True):
    """Where the content of an entry is in the file."""

    position: int
    size: int


class BackupFile:
    """A backup whose content is what its index says. Made by `check`."""

    def __init__(self, stream: BufferedReader, header: Header, index: Index, places: dict[str, _Place]) -> None:
        self._stream = stream
        self._places = places
        self._entries = index.entries
        self.header = header
        self.rows = index.rows

    @property
    def name(self) -> str:
        return str(self._stream.name)

    @property
    def total_bytes(self) -> int:
        return self._stream.seek(0, os.SEEK_END)

    def names(self) -> list[str]:
        """Of every entry, in the file's order."""
        return list(self._places)

    def size(self, name: str) -> int:
        return self._entries[name].size

    def read(self, name: str) -> bytes:
        """The content of a small entry.

        Raises:
            TrustError: It has changed since it was checked (code `backup_damaged`).
        """
        if self.size(name) > _MAX_HELD_BYTES:
            raise damaged(f"{name} is too large")
        return b"".join(self.pieces(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of an entry; use it only once all of it came.

        Raises:
            TrustError: It has changed since it was checked (code `backup_damaged`).
        """
        hashed = hashlib.sha256()
        for piece in _content(self._stream, self._places[name]):
            hashed.update(piece)
            yield piece
        if hashed.hexdigest() != self._entries[name].sha256:
            raise damaged(f"{name} has changed since it was checked")


def check(stream: BufferedReader, progress: Progress) -> BackupFile:
    """Compare a whole backup with its index.

    Args:
        stream: The file; it stays the caller's to close.
        progress: Told of the bytes that were read.

    Raises:
        TrustError: It is no backup, or not what its index says (code `backup_damaged`).
        BadInput: A newer program made it (code `backup_newer`).
    """
    header: Header | None = None
    places: dict[str, _Place] = {}
    seen: dict[str, Entry] = {}
    for name, place in _entries(stream):
        if header is None:
            header = _header(stream, name, place)
        elif name == INDEX:
            index = _decoded(stream, name, place, Index, _MAX_INDEX_BYTES)
            _compare(header, seen, index)
            _require_end(stream, place)
            del places[HEADER]
            return BackupFile(stream, header, index, places)
        if name in places or not _is_expected(name, header):
            raise damaged(f"{name[:200]!r} does not belong there")
        places[name] = place
        hashed = hashlib.sha256()
        for piece in _content(stream, place):
            hashed.update(piece)
            progress(len(piece))
        seen[name] = Entry(hashed.hexdigest(), place.size)
        payload = payload_of(name)
        if payload and payload[1] == "identity" and payload[0] != seen[name].sha256:
            raise damaged(f"{name} is another payload")
    raise damaged("it ends before its index" if header else f"it does not begin with {HEADER}")


def _entries(stream: BufferedReader) -> Iterator[tuple[str, _Place]]:
    """Names and places, up to the end of the archive or of the file."""
    position = 0
    while True:
        stream.seek(position)
        block = stream.read(BLOCK_BYTES)
        if len(block) < BLOCK_BYTES or not any(block):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            plain = entry_header(info.name, info.size)
        except (tarfile.HeaderError, ValueError) as error:
            raise damaged(f"at byte {position} there is no entry") from error
        if block != plain:
            raise damaged(f"{info.name[:200]!r} is no plain entry")
        position += BLOCK_BYTES
        yield info.name, _Place(position, info.size)
        stream.seek(position + info.size)
        if any(stream.read(padding(info.size))):
            raise damaged(f"there is something between {info.name[:200]!r} and the next entry")
        position += info.size + padding(info.size)


def _content(stream: BufferedReader, place: _Place) -> Iterator[bytes]:
    done = 0
    while done < place.size:
        stream.seek(place.position + done)
        piece = stream.read(min(PIECE_BYTES, place.size - done))
        if not piece:
            raise damaged("it was cut off")
        done += len(piece)
        yield piece


def _header(stream: BufferedReader, name: str, place: _Place) -> Header:
    if name != HEADER:
        raise damaged(f"it does not begin with {HEADER}")
    form = _decoded(stream, name, place, Form, _MAX_HEADER_BYTES).form
    if form > FORM:
        raise newer(f"form {form}")
    return _decoded(stream, name, place, Header, _MAX_HEADER_BYTES)


def _decoded(stream: BufferedReader, name: str, place: _Place, kind: type[T], limit_bytes: int) -> T:
    if place.size > limit_bytes:
        raise damaged(f"{name} is too large")
    try:
        return msgspec.json.decode(b"".join(_content(stream, place)), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(f"{name} cannot be read: {error}") from error


def _is_expected(name: str, header: Header) -> bool:
    if name in {HEADER, SETTINGS} or payload_of(name) or is_key(name):
        return True
    table = table_of(name)
    return table is not None and any(table == each.name for each in header.tables)


def _compare(header: Header, seen: dict[str, Entry], index: Index) -> None:
    different = {name for name in seen.keys() | index.entries.keys() if seen.get(name) != index.entries.get(name)}
    if different:
        raise damaged(f"{len(different)} entries are not what the index says, {min(different)[:200]!r} among them")
    if index.rows.keys() != {table.name for table in header.tables}:
        raise damaged("its index names other tables than its header")


def _require_end(stream: BufferedReader, index: _Place) -> None:
    stream.seek(index.position + index.size)
    rest = padding(index.size) + 2 * BLOCK_BYTES
    if stream.read(rest + 1) != bytes(rest):
        raise damaged("something follows its index, or its end is missing")


def newer(what: str) -> BadInput:
    return BadInput(f"A newer sdx made this backup ({what}). Install that one.", "backup_newer")

"""From a hub to a file."""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
import zstandard
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel, col

from firmware_schemas.release import decode_manifest
from sdx_hub import migrations
from sdx_hub.adapters.blobs import ENCODINGS, key_of, sync_file, sync_folder
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence import tables as _every_table  # noqa: F401 - fills SQLModel.metadata
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.trust import OnlineKey
from sdx_hub.services.backup.form import (
    BLOCK_BYTES,
    FORM,
    HEADER,
    INDEX,
    KEYS,
    PAYLOADS,
    PIECE_BYTES,
    PRIVATE,
    SETTINGS,
    Entry,
    Header,
    Index,
    Place,
    Progress,
    Summary,
    TableForm,
    entry_header,
    form_of,
    padding,
    rows_name,
)
from sdx_hub.trust.online import file_of

_ROWS, _LARGE_ROWS = 500, 50
"""Rows that are read at once; those with bytes in them, signed metadata for instance, may be large."""


async def write_backup(place: Place, target: Path, now: datetime, progress: Progress = lambda _: None) -> Summary:
    """Copy a hub, which may be running meanwhile, into one file, which appears whole or not at all.

    Args:
        place: The hub.
        target: Only its owner may read it: it holds the hub's own keys.
        now: Written down as the time of the backup.
        progress: Told of the bytes that were written.

    Raises:
        ConflictError: The file exists (code `file_exists`), or the database is at another version than this program
            (`database_older`, `database_newer`).
        Unavailable: The payloads cannot be reached.
    """
    with _appearing(target) as stream:
        archive = _Archive(stream, progress)
        header, rows, named = await _write_rows(place, archive, now)
        _write_files(place, archive)
        payloads, rotten = await _write_payloads(place, archive)
        archive.finish(rows)
        size = stream.tell()
    left_out = tuple(sorted(rotten | (named - archive.names)))
    return Summary(str(target), now, header.schema, sum(rows.values()), payloads, size, left_out)


@contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    """A new private file, which gets its name once it is whole and on the disk."""
    if target.exists():
        raise ConflictError(f"{target} exists. Choose another name; a backup is never overwritten.", "file_exists")
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as stream:
            yield stream
        sync_file(unfinished)
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(target.parent)


class _Archive:
    """A tar archive that is written from the front to the end, and remembers what its index must say."""

    def __init__(self, stream: BinaryIO, progress: Progress) -> None:
        self._stream = stream
        self._progress = progress
        self._entries: dict[str, Entry] = {}

    @property
    def names(self) -> set[str]:
        return set(self._entries)

    def add(self, name: str, raw: bytes) -> None:
        self._begin(name, len(raw))
        self._put(raw)
        self._end(name, hashlib.sha256(raw).hexdigest(), len(raw))

    async def add_stream(self, name: str, size: int, pieces: AsyncIterator[bytes], *, wanted: str | None) -> bool:
        """Add what comes in pieces; if it is not what `wanted` names, or not so long, leave it out again."""
        start = self._stream.tell()
        self._begin(name, size)
        hashed, length = hashlib.sha256(), 0
        async for piece in pieces:
            hashed.update(piece)
            length += len(piece)
            self._put(piece)
        digest = hashed.hexdigest()
        if length != size or wanted not in {None, digest}:
            self._stream.seek(start)
            self._stream.truncate()
            return False
        self._end(name, digest, size)
        return True

    def finish(self, rows: dict[str, int]) -> None:
        raw = msgspec.json.encode(Index(self._entries, rows))
        self._begin(INDEX, len(raw))
        self._put(raw + bytes(padding(len(raw)) + 2 * BLOCK_BYTES))

    def _begin(self, name: str, size: int) -> None:
        self._put(entry_header(name, size))

    def _end(self, name: str, sha256: str, size: int) -> None:
        self._put(bytes(padding(size)))
        self._entries[name] = Entry(sha256, size)

    def _put(self, raw: bytes) -> None:
        self._stream.write(raw)
        self._progress(len(raw))


async def _write_rows(place: Place, archive: _Archive, now: datetime) -> tuple[Header, dict[str, int], set[str]]:
    """Write the header and every table; return how many rows each has, and which other entries they name."""
    await migrations.require_current(place.database)
    async with place.database.reading() as snapshot:
        schema = await snapshot.scalar(text("SELECT version_num FROM alembic_version"))
        forms = tuple(form_of(table) for table in SQLModel.metadata.sorted_tables)
        header = Header(FORM, str(schema), now, forms)
        archive.add(HEADER, msgspec.json.encode(header))
        rows = {form.name: await _write_table(snapshot, form, archive) for form in forms}
        return header, rows, await _named(snapshot)


async def _named(snapshot: AsyncSession) -> set[str]:
    """The hub's own keys that are files, and the payloads of published releases, as entries."""
    uris = await snapshot.scalars(select(col(OnlineKey.uri)))
    names = {f"{KEYS}{name}" for name in map(file_of, uris) if name is not None}
    published = select(col(Release.manifest)).where(col(Release.state) == "published")
    async for raw in await snapshot.stream_scalars(published.execution_options(yield_per=_LARGE_ROWS)):
        manifest = decode_manifest(bytes(raw))
        digests = {hashlib.sha256(raw).hexdigest()}
        digests |= {part.sha256 for part in manifest.components} | {document.sha256 for document in manifest.documents}
        names |= {f"{PAYLOADS}{key_of(sha256, encoding)}" for sha256 in digests for encoding in ENCODINGS}
    return names


async def _write_table(snapshot: AsyncSession, form: TableForm, archive: _Archive) -> int:
    """Write the rows of a table; return how many."""
    table = SQLModel.metadata.tables[form.name]
    encoder, compressor = msgspec.json.Encoder(), zstandard.ZstdCompressor()
    lines, rows, number = bytearray(), 0, 0

    def flush() -> None:
        nonlocal number
        number += 1
        archive.add(rows_name(form.name, number), compressor.compress(bytes(lines)))
        lines.clear()

    at_once = _LARGE_ROWS if any(kind == "bytes" for _, kind in form.columns) else _ROWS
    found = await snapshot.stream(select(table).execution_options(yield_per=at_once))
    async for several in found.partitions():
        for row in several:
            lines += encoder.encode(tuple(row)) + b"\n"
            rows += 1
            if len(lines) >= PIECE_BYTES:
                flush()
    if lines:
        flush()
    return rows


def _write_files(place: Place, archive: _Archive) -> None:
    for path in _keys(place.online):
        archive.add(f"{KEYS}{path.name}", path.read_bytes())
    settings = place.data / SETTINGS
    if settings.is_file():
        archive.add(SETTINGS, settings.read_bytes())


def _keys(folder: Path) -> Iterator[Path]:
    # Secrets that a container engine brings are links into folders whose names begin with a dot.
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith("."))


async def _write_payloads(place: Place, archive: _Archive) -> tuple[int, set[str]]:
    """Write every payload; return how many, and the entries that are missing because they are not what they say."""
    count, rotten = 0, set()
    async for sha256, encoding, size in place.storage.blobs.stored():
        wanted = sha256 if encoding == "identity" else None
        content, name = place.storage.blobs.read(sha256, encoding, 0, size), f"{PAYLOADS}{key_of(sha256, encoding)}"
        if await archive.add_stream(name, size, content, wanted=wanted):
            count += encoding == "identity"
        else:
            rotten.add(name)
    return count, rotten

"""From a file to a place where no hub is yet."""

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdx_hub import migrations
from sdx_hub.adapters.blobs import room, sync_file, sync_folder
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import ConflictError
from sdx_hub.services.backup.archive import BackupFile, check, newer
from sdx_hub.services.backup.form import KEYS, PRIVATE, SETTINGS, Place, Progress, Summary, is_key, payload_of
from sdx_hub.services.backup.restored_rows import fill_database, require_empty

SETTINGS_ASIDE = "hub.toml.from-backup"
OF_THE_PLACE = frozenset(
    {"database_url", "blob_url", "blob_key_id", "blob_secret", "keys_dir", "tls_cert", "tls_key", "otlp_endpoint"}
)
"""Settings that say where a hub is: those of the hub that was backed up would lead back to it."""

_SCRATCH = ".restoring-"
_MAY_BE_THERE = frozenset(
    {"blobs", "online", "uploads", SETTINGS, SETTINGS_ASIDE, "hub.db", "hub.db-wal", "hub.db-shm"}
)


@contextmanager
def opened(source: Path, progress: Progress = lambda _: None) -> Iterator[BackupFile]:
    """A backup file whose every byte has been compared with its index.

    Raises:
        TrustError: It is no backup, or not what its index says (code `backup_damaged`).
        BadInput: A newer program made it (code `backup_newer`).
    """
    with source.open("rb") as stream:
        file = check(stream, progress)
        if file.header.schema not in migrations.known():
            raise newer(f"version {file.header.schema} of the database")
        yield file


def require_free(data: Path, online: Path, file: BackupFile) -> None:
    """Return if the folders hold nothing but what an interrupted restore of this file left, and settings.

    Raises:
        ConflictError: There is something else (code `folder_not_empty`).
    """
    if data.is_dir():
        others = [path.name for path in data.iterdir() if path.name not in _MAY_BE_THERE and not _is_scratch(path)]
        if others:
            raise ConflictError(
                f"{data} is not empty, there is {min(others)}. Restore into a new folder.", "folder_not_empty"
            )
    if online.is_dir():
        ours = {name.removeprefix(KEYS): name for name in file.names() if is_key(name)}
        for path in online.iterdir():
            if not _is_scratch(path) and (path.name not in ours or path.read_bytes() != file.read(ours[path.name])):
                raise ConflictError(
                    f"{online} holds {path.name}, which is not of this backup. Restore into an empty folder of keys.",
                    "folder_not_empty",
                )


async def read_backup(file: BackupFile, place: Place, clock: Clock, progress: Progress = lambda _: None) -> Summary:
    """Bring a backup to a place: payloads first, then keys and settings, then all rows in one transaction.

    Until that transaction is committed nothing counts: what is there already is accepted when it is run again.

    Args:
        file: From `opened`.
        place: Where to; see `require_free`.
        clock: For the audit log.
        progress: Told of the bytes that were read.

    Raises:
        ConflictError: The database holds a hub (code `database_not_empty`), or cannot hold the rows (`rows_refused`).
        TrustError: The file changes while it is read (code `backup_damaged`).
        Unavailable: The blob store cannot be reached or is full.
    """
    await require_empty(file, place.database)
    payloads = await _put_payloads(file, place, progress)
    with _undone_on_failure() as written:
        for entry in filter(is_key, file.names()):
            _write(place.online / entry.removeprefix(KEYS), file.read(entry), written)
        settings = _write_settings(file, place.data, written)
        rows = await fill_database(file, place.database, clock, progress)
    return Summary(file.name, file.header.time, file.header.schema, rows, payloads, file.total_bytes, settings=settings)


async def _put_payloads(file: BackupFile, place: Place, progress: Progress) -> int:
    count = 0
    for entry in file.names():
        if (named := payload_of(entry)) is None:
            continue
        count += named[1] == "identity"
        if await place.storage.blobs.stat(*named) == file.size(entry):
            progress(file.size(entry))
            continue
        scratch = place.storage.scratch.path()
        try:
            with room(), scratch.open("xb") as out:
                for piece in file.pieces(entry):
                    out.write(piece)
                    progress(len(piece))
            await place.storage.blobs.put(*named, scratch)
        finally:
            place.storage.scratch.remove(scratch)
    return count


def _write_settings(file: BackupFile, data: Path, written: list[Path]) -> str:
    """Put the settings where they count, or aside where they would lead back to the old place; return where."""
    if SETTINGS not in file.names():
        return ""
    raw = file.read(SETTINGS)
    here = data / SETTINGS
    aside = (here.exists() and here.read_bytes() != raw) or OF_THE_PLACE & tomllib.loads(raw.decode()).keys()
    target = data / (SETTINGS_ASIDE if aside else SETTINGS)
    _write(target, raw, written)
    return str(target)


@contextmanager
def _undone_on_failure() -> Iterator[list[Path]]:
    """Collects the files that were written, and takes them away again when something fails."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise


def _write(target: Path, raw: bytes, written: list[Path]) -> None:
    """Write a private file, whole or not at all; the same content that is there already stays."""
    if target.exists() and target.read_bytes() == raw:
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = target.with_name(f"{_SCRATCH}{target.name}")
    with suppress(FileNotFoundError):
        scratch.unlink()
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as out:
            out.write(raw)
        sync_file(scratch)
        written.append(target)
        scratch.rename(target)
    finally:
        scratch.unlink(missing_ok=True)
    sync_folder(target.parent)


def _is_scratch(path: Path) -> bool:
    return path.name.startswith(_SCRATCH)

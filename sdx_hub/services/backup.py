"""One file with everything that a hub is: database, payloads, its own keys, settings; and back into an empty folder.

The database is copied first, by SQLite's own backup, which is consistent while the hub goes on writing. Payloads never
change and are never taken away while a release names them, so whatever the copy names is still there afterwards.

    backup.json     first entry: version of this form, time, and the SHA-256 and size of every other entry
    hub.db          the database
    blobs/AB/...    payloads
    online/...      the hub's own keys: whoever has this file can sign as the hub
    hub.toml        settings, where there are any
"""

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from msgspec import Struct

from sdx_hub.adapters.blobs import sync_file, sync_folder
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TrustError

FORM = 1
INDEX = "backup.json"
DATABASE = "hub.db"
_FOLDERS = ("blobs", "online")
_SETTINGS = "hub.toml"
_MAX_INDEX_BYTES = 512 * 1024**2
_PRIVATE = 0o600


class Summary(Struct, frozen=True):
    """What a backup holds."""

    file: str
    entries: int
    bytes: int


def write_backup(data_dir: Path, target: Path, now: datetime) -> Summary:
    """Copy the hub into one file, which appears whole or not at all and only its owner may read.

    Raises:
        NotFound: There is no database (code `hub_not_initialised`).
        ConflictError: The file exists (code `file_exists`).
    """
    source = data_dir / DATABASE
    if not source.exists():
        raise NotFound(f"{data_dir} holds no hub: there is no {DATABASE}.", "hub_not_initialised")
    if target.exists():
        raise ConflictError(f"{target} exists. Choose another name; a backup is never overwritten.", "file_exists")
    target = target.absolute()
    with tempfile.TemporaryDirectory(prefix=".sdx-backup-", dir=target.parent) as scratch:
        copy = Path(scratch) / DATABASE
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(copy)) as frozen:
            live.backup(frozen)
        files = {DATABASE: copy} | dict(_files(data_dir))
        listed = {name: _describe(path) for name, path in sorted(files.items())}
        index = json.dumps({"form": FORM, "time": now.isoformat(), "entries": listed}, sort_keys=True).encode()
        unfinished = Path(scratch) / "backup"
        with unfinished.open("xb") as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            os.fchmod(stream.fileno(), _PRIVATE)
            _add(tar, INDEX, len(index), io.BytesIO(index))
            for name in listed:
                with files[name].open("rb") as content:
                    _add(tar, name, listed[name]["size"], content)
        sync_file(unfinished)
        unfinished.rename(target)
    sync_folder(target.parent)
    return Summary(str(target), len(listed), target.stat().st_size)


def read_backup(source: Path, data_dir: Path) -> Summary:
    """Bring a backup back into an empty folder; every byte is checked, and on any doubt nothing is left there.

    Raises:
        ConflictError: The folder is not empty (code `folder_not_empty`).
        TrustError: The file is no backup, or not what its index says (code `backup_damaged`).
        BadInput: A newer program made it (code `backup_newer`).
    """
    if data_dir.exists() and any(data_dir.iterdir()):
        raise ConflictError(f"{data_dir} is not empty. Restore into a new folder.", "folder_not_empty")
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".sdx-restore-", dir=data_dir.parent) as scratch:
            folder = Path(scratch) / "data"
            folder.mkdir(mode=0o700)
            with tarfile.open(source, "r:") as tar:
                count = _unpack(tar, folder)
            if data_dir.exists():
                data_dir.rmdir()
            folder.rename(data_dir)
    except (tarfile.TarError, KeyError, ValueError, EOFError) as error:
        raise _damaged(str(error)) from error
    sync_folder(data_dir.parent)
    return Summary(str(source), count, source.stat().st_size)


def _unpack(tar: tarfile.TarFile, folder: Path) -> int:
    first = tar.next()
    if first is None or first.name != INDEX or first.size > _MAX_INDEX_BYTES:
        raise _damaged(f"it does not begin with {INDEX}")
    index = json.loads(_content(tar, first).read())
    if index["form"] != FORM:
        raise BadInput(f"A newer sdx made this backup (form {index['form']}). Install that one.", "backup_newer")
    waiting: dict[str, dict[str, Any]] = dict(index["entries"])
    folders = {folder}
    for member in iter(tar.next, None):
        listed = waiting.pop(member.name, None)
        if listed is None or not member.isreg() or not _is_plain(member.name):
            raise _damaged(f"{member.name[:200]!r} is not in its index")
        path = folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folders |= {path.parent}
        hashed, size = hashlib.sha256(), 0
        with _content(tar, member) as content, path.open("xb") as out:
            os.fchmod(out.fileno(), _PRIVATE)
            while piece := content.read(1024 * 1024):
                hashed.update(piece)
                size += len(piece)
                out.write(piece)
        if (hashed.hexdigest(), size) != (listed["sha256"], listed["size"]):
            raise _damaged(f"{member.name} is not what its index says")
        sync_file(path)
    if waiting:
        raise _damaged(f"{len(waiting)} entries are missing, {min(waiting)} among them")
    for each in folders:
        sync_folder(each)
    return len(index["entries"])


def _files(data_dir: Path) -> Iterator[tuple[str, Path]]:
    for folder in _FOLDERS:
        for path in sorted((data_dir / folder).rglob("*")):
            # Names that begin with a dot are copies that are still being made.
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                yield path.relative_to(data_dir).as_posix(), path
    if (data_dir / _SETTINGS).is_file():
        yield _SETTINGS, data_dir / _SETTINGS


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": path.stat().st_size}


def _add(tar: tarfile.TarFile, name: str, size: int, content: Any) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, _PRIVATE
    tar.addfile(entry, content)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    content = tar.extractfile(member)
    if content is None:
        raise _damaged(f"{member.name[:200]!r} has no content")
    return content


def _is_plain(name: str) -> bool:
    """Whether a name stays in the folder, and is one that a backup has."""
    parts = PurePosixPath(name).parts
    allowed = name in {DATABASE, _SETTINGS} or (len(parts) > 1 and parts[0] in _FOLDERS)
    return allowed and ".." not in parts and not name.startswith("/") and "\\" not in name


def _damaged(why: str) -> TrustError:
    return TrustError(f"This is no whole backup: {why}. Nothing was restored; take another copy.", "backup_damaged")

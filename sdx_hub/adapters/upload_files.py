"""The files of uploads under way: one for each upload, named by its id, and scratch files that nobody else knows."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sdx_hub.adapters.blobs import sync_file, sync_folder
from sdx_hub.domain.errors import Unavailable

SCRATCH_LIFE = timedelta(hours=1)
"""A file that belongs to no open upload and was not written for so long is a crash's leftover."""


class UploadFiles:
    """A folder. Every method blocks: call it in a thread.

    Args:
        folder: Best on the file system of the blobs, so that a payload is moved and not copied.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._folder = folder

    def size(self, upload_id: str) -> int:
        """Bytes of an upload; 0 where there is no file."""
        try:
            return (self._folder / upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def write(self, upload_id: str, position: int, data: bytes) -> None:
        """Write a piece; it is not durable yet.

        Raises:
            Unavailable: The disk is full (code `storage_full`).
        """
        # Opened for each write: a handle shared with a cancelled task could be somebody else's file by then.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        with room():
            handle = os.open(self._folder / upload_id, flags, 0o640)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(handle, view, position)
                    view, position = view[written:], position + written
            finally:
                os.close(handle)

    def sync(self, upload_id: str) -> None:
        """Return when everything that was written is on the disk, and the file's name too."""
        sync_file(self._folder / upload_id)
        sync_folder(self._folder)

    def private_copy(self, upload_id: str) -> Path:
        """A copy that no late connection can write into while it is checked and stored.

        Raises:
            FileNotFoundError: There is no such upload.
            Unavailable: The disk is full (code `storage_full`).
        """
        copy = self.scratch()
        try:
            with room():
                shutil.copyfile(self._folder / upload_id, copy)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        return copy

    def scratch(self) -> Path:
        """A path for a new file of the caller's own."""
        return self._folder / f"scratch-{secrets.token_hex(16)}"

    def drop(self, upload_id: str) -> None:
        """Remove an upload's file, if there is one."""
        self.remove(self._folder / upload_id)

    def remove(self, *paths: Path) -> None:
        """Remove scratch files; one that is gone already is no error."""
        for path in paths:
            path.unlink(missing_ok=True)

    def sweep(self, still_open: set[str]) -> None:
        """Remove what no open upload needs, except what is young: another worker may be writing it."""
        before = datetime.now(UTC) - SCRATCH_LIFE
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if path.name not in still_open and path.stat().st_mtime < before.timestamp():
                    path.unlink()


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
        raise Unavailable(
            "The hub's disk is full. Nothing is lost; make room there and run the same command again.", "storage_full"
        ) from error

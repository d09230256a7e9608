"""Every durable operation of the agent, in one place.

Workers and handlers change the disk through this port only. That makes two things possible: the order of write, fsync
and rename can be read in one file, and a power-cut test can stop the process at each operation from outside.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

FOLDER_MODE = 0o700
SECRET_MODE = 0o600


class Sink(Protocol):
    """Where a stream goes."""

    def write(self, data: bytes, /) -> int: ...


class Storage(Protocol):
    """Primitive operations. None of them is durable before the matching `sync_*`."""

    def write_file(self, path: Path, data: bytes, mode: int = SECRET_MODE) -> None:
        """Create or truncate a file."""

    def write_stream(self, path: Path, chunks: Iterator[bytes], mode: int = SECRET_MODE) -> None:
        """Create a file that must not exist, from chunks."""

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file, creating it."""

    def sync_file(self, path: Path) -> None:
        """Wait until the content of a file is on the medium."""

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the medium."""

    def sync_tree(self, path: Path) -> None:
        """`sync_file` and `sync_folder` for everything below and including `path`."""

    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` atomically."""

    def symlink(self, text: str, path: Path) -> None: ...

    def unlink(self, path: Path) -> None:
        """Remove a file or link; nothing happens where there is none."""

    def make_folder(self, path: Path, mode: int = FOLDER_MODE) -> None:
        """Create a folder and its parents; nothing happens where there is one."""

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and everything below; nothing happens where there is none."""


class DiskStorage:
    """The real thing."""

    def write_file(self, path: Path, data: bytes, mode: int = SECRET_MODE) -> None:
        with self._opened(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode) as descriptor:
            _write_all(descriptor, data)

    def write_stream(self, path: Path, chunks: Iterator[bytes], mode: int = SECRET_MODE) -> None:
        # O_EXCL and O_NOFOLLOW: an archive can neither write twice to one name nor through a link.
        with self._opened(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode) as descriptor:
            for chunk in chunks:
                _write_all(descriptor, chunk)

    def append(self, path: Path, data: bytes) -> None:
        with self._opened(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, SECRET_MODE) as descriptor:
            _write_all(descriptor, data)

    def sync_file(self, path: Path) -> None:
        _sync(path, os.O_RDONLY)

    def sync_folder(self, path: Path) -> None:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def sync_tree(self, path: Path) -> None:
        for folder, _folders, files in os.walk(path, topdown=False):
            for name in files:
                file = Path(folder, name)
                if stat.S_ISREG(file.lstat().st_mode):
                    self.sync_file(file)
            self.sync_folder(Path(folder))

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def symlink(self, text: str, path: Path) -> None:
        path.symlink_to(text)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path, mode: int = FOLDER_MODE) -> None:
        if not path.is_dir():
            self.make_folder(path.parent, FOLDER_MODE)
            with suppress(FileExistsError):
                path.mkdir(mode)
            path.chmod(mode)  # mkdir's mode is cut by the umask.

    def remove_tree(self, path: Path) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(path)

    @contextmanager
    def _opened(self, path: Path, flags: int, mode: int) -> Iterator[int]:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(descriptor, mode)
            yield descriptor
        finally:
            os.close(descriptor)


def lasting_folder(storage: Storage, path: Path, mode: int = FOLDER_MODE) -> None:
    """Make a folder whose name, and those of parents that had to be made, survive a power cut.

    What is synced inside a folder is lost with it while the folder's own name was not synced.
    """
    made = []
    folder = path
    while not folder.is_dir():
        made.append(folder)
        folder = folder.parent
    storage.make_folder(path, mode)
    for folder in reversed(made):
        storage.sync_folder(folder.parent)


def replace_file(storage: Storage, path: Path, data: bytes, mode: int = SECRET_MODE) -> None:
    """Change a whole file durably: temporary file, fsync, rename, fsync of the folder.

    After a power cut the file holds the old or the new bytes, nothing in between (the folder's fsync is what makes the
    rename last: see `man 2 fsync`).
    """
    temporary = path.with_name(path.name + ".next")
    storage.write_file(temporary, data, mode)
    storage.sync_file(temporary)
    storage.rename(temporary, path)
    storage.sync_folder(path.parent)


def replace_symlink(storage: Storage, path: Path, text: str) -> None:
    """Point a link elsewhere, atomically and durably."""
    temporary = path.with_name(path.name + ".next")
    storage.unlink(temporary)
    storage.symlink(text, temporary)
    storage.rename(temporary, path)
    storage.sync_folder(path.parent)


def read_optional(path: Path, longest_bytes: int = 1 << 24) -> bytes | None:
    """The content of a file, or None where there is none.

    Raises:
        ValueError: It is larger than `longest_bytes`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(longest_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(data) > longest_bytes:
        raise ValueError(f"{path.name} has more than {longest_bytes} bytes.")
    return data


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

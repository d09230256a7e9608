"""Where the entries of an archive come from: a folder, or a plain tar file.

Nothing here follows a symbolic link, and files are opened relative to nothing that could be swapped in between: what
was a regular file when listed is opened with O_NOFOLLOW, and its size must still be the listed one (archive.stream).
"""

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sdx_hub.publishing import archive
from sdx_hub.publishing.archive import Entry
from sdx_hub.publishing.errors import BuildRefused


def folder_entries(folder: Path) -> list[Entry]:
    """List a folder.

    Raises:
        BuildRefused: It is no folder (`source_missing`), or something in it cannot be part of a payload.
    """
    if not folder.is_dir():
        raise BuildRefused(f"{folder} is no folder: a `directory` component is made of one.", "source_missing")
    return archive.complete(_walk(folder, ""))


def _walk(folder: Path, prefix: str) -> Iterator[Entry]:
    with os.scandir(folder) as listing:
        for item in listing:
            path = archive.normal_path(prefix + item.name)
            mode = item.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield Entry(path, "folder")
                yield from _walk(Path(item.path), f"{path}/")
            elif stat.S_ISLNK(mode):
                yield Entry(path, "link", link=archive.check_link(path, os.readlink(item.path)))  # noqa: PTH115
            elif stat.S_ISREG(mode):
                size = item.stat(follow_symlinks=False).st_size
                yield Entry(path, "file", bool(mode & stat.S_IXUSR), size, open=_opener(Path(item.path)))
            else:
                raise BuildRefused(
                    f"{path!r} is a {_special(mode)}: only files, folders and symbolic links can be released.",
                    "archive_bad_entry",
                )


def _special(mode: int) -> str:
    kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def _opener(path: Path) -> archive.Opener:
    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise BuildRefused(f"Cannot read {path}: {error.strerror}.", "source_missing") from error
        with os.fdopen(handle, "rb") as file:
            yield file

    return opened


def tar_entries(path: Path) -> list[Entry]:
    """List an uncompressed tar file, to be written again in canonical form.

    Raises:
        BuildRefused: It is no plain tar file (`source_missing`), or something in it cannot be part of a payload.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            return archive.complete(_from_tar(path, tar))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BuildRefused(
            f"{path} is no uncompressed tar file ({error}). Give a folder, or unpack it first.", "source_missing"
        ) from error


def _from_tar(path: Path, tar: tarfile.TarFile) -> Iterator[Entry]:
    for member in tar:
        if member.name in {".", "./"} and member.isdir():
            continue
        name = archive.normal_path(member.name)
        if member.isdir():
            yield Entry(name, "folder")
        elif member.issym():
            yield Entry(name, "link", link=archive.check_link(name, member.linkname))
        elif member.isreg() and not member.issparse():
            executable = bool(member.mode & stat.S_IXUSR)
            yield Entry(name, "file", executable, member.size, open=_slice(path, member.offset_data, member.size))
        else:
            kind = "hard link" if member.islnk() else "special file"
            raise BuildRefused(
                f"{name!r} is a {kind}: only files, folders and symbolic links can be released.", "archive_bad_entry"
            )


def _slice(path: Path, offset: int, size: int) -> archive.Opener:
    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with path.open("rb") as file:
            file.seek(offset)
            yield _Window(file, size)  # type: ignore[misc]

    return opened


class _Window:
    """The next `left` bytes of a file."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file = file
        self._left = left

    def read(self, size: int) -> bytes:
        chunk = self._file.read(min(size, self._left))
        self._left -= len(chunk)
        return chunk

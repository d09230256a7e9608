"""What is left on a medium after a power cut: a storage port that remembers what was synced, and loses the rest.

POSIX promises nothing about a write before `fsync` of the file, nor about a name before `fsync` of its folder, and
nothing about their order. A file system may therefore keep any part of what was not synced. `Loss` names five of these
outcomes, from the mildest to the cruellest; code that is right must live with each.
"""

import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from device_agent.ports.storage import FOLDER_MODE, SECRET_MODE, DiskStorage


class Loss(StrEnum):
    """What happens to names and contents that were not synced."""

    NOTHING = "the process stops, the medium keeps everything"
    EVERYTHING = "names are undone, contents are gone"
    CONTENTS = "names are kept, contents are empty"
    HALF = "names are kept, contents are cut in half"
    SOME = "each name and each content is kept or lost by chance"


class Entry(NamedTuple):
    """A name in a folder; `node` is a file's or a folder's identity, `text` a link's target."""

    kind: str
    node: int
    mode: int
    text: str


@dataclass
class Medium:
    """The durable image of a folder, beside what the running system sees.

    Attributes:
        root: The folder.
        names: By folder: the names that were there when it was synced last.
        contents: By file: the bytes that were there when it was synced last.
        nodes: Inode number to identity. Inode numbers are used again, identities are not.
    """

    root: Path
    names: dict[int, dict[str, Entry]] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    nodes: dict[int, int] = field(default_factory=dict)
    _last: int = 0

    def __post_init__(self) -> None:
        """All that is there now has been there for long: it is durable."""
        for folder, _folders, files in os.walk(self.root):
            for name in files:
                if not Path(folder, name).is_symlink():
                    self.file_synced(Path(folder, name))
        for folder, _folders, _files in os.walk(self.root):
            self.folder_synced(Path(folder))

    def node(self, path: Path) -> int:
        return self.nodes.setdefault(path.lstat().st_ino, self._fresh())

    def created(self, path: Path) -> None:
        """A new file or folder: whatever had this inode number before is another one."""
        self.nodes[path.lstat().st_ino] = self._fresh()

    def file_synced(self, path: Path) -> None:
        self.contents[self.node(path)] = path.read_bytes()

    def folder_synced(self, path: Path) -> None:
        self.names[self.node(path)] = self._listing(path)

    def lose(self, loss: Loss, seed: int) -> None:
        """Make the folder what is left of it."""
        if loss is Loss.NOTHING:
            return
        chance = random.Random(seed)
        live = {self.node(folder): folder for folder in [self.root, *self._folders()]}
        image = self._surviving(self.node(self.root), live, loss, chance)
        _clear(self.root)
        _lay(self.root, image)

    def _surviving(self, node: int, live: dict[int, Path], loss: Loss, chance: random.Random) -> dict[str, object]:
        """A folder's content after the cut: name to bytes and mode, to a link's text, or to a folder."""
        keeps_names = loss in {Loss.CONTENTS, Loss.HALF} or (loss is Loss.SOME and chance.random() < 0.5)
        path = live.get(node)
        if keeps_names and path is not None:
            entries = self._listing(path)
        else:
            entries, path = self.names.get(node, {}), None
        image: dict[str, object] = {}
        for name, entry in sorted(entries.items()):
            if entry.kind == "folder":
                image[name] = (entry.mode, self._surviving(entry.node, live, loss, chance))
            elif entry.kind == "link":
                image[name] = entry.text
            else:
                current = (path / name).read_bytes() if path is not None else None
                image[name] = (entry.mode, self._content(entry.node, current, loss, chance))
        return image

    def _content(self, node: int, current: bytes | None, loss: Loss, chance: random.Random) -> bytes:
        durable = self.contents.get(node, b"")
        if current is None or current == durable:
            return durable
        if loss is Loss.HALF:
            return current[: len(durable) + (len(current) - len(durable)) // 2] if current else b""
        return current if loss is Loss.SOME and chance.random() < 0.5 else durable

    def _listing(self, folder: Path) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for path in folder.iterdir():
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                found[path.name] = Entry("link", 0, 0, str(path.readlink()))
            else:
                kind = "folder" if stat.S_ISDIR(mode) else "file"
                found[path.name] = Entry(kind, self.node(path), stat.S_IMODE(mode), "")
        return found

    def _folders(self) -> Iterator[Path]:
        return (path for path in self.root.rglob("*") if path.is_dir() and not path.is_symlink())

    def _fresh(self) -> int:
        self._last += 1
        return self._last


def _clear(folder: Path) -> None:
    disk = DiskStorage()
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            disk.remove_tree(path)
        else:
            path.unlink()


def _lay(folder: Path, image: dict[str, object]) -> None:
    for name, what in image.items():
        path = folder / name
        match what:
            case str():
                path.symlink_to(what)
            case (int() as mode, bytes() as content):
                path.write_bytes(content)
                path.chmod(mode)
            case (int() as mode, dict() as below):
                path.mkdir()
                _lay(path, below)
                path.chmod(mode)


class FragileStorage(DiskStorage):
    """The real storage, with a point before, in the middle of, and after each operation.

    Args:
        medium: What is durable.
        point: Called with the name of each point, in order; it may never return.
    """

    def __init__(self, medium: Medium, point: Callable[[str], None]) -> None:
        self._medium, self._point = medium, point

    def write_file(self, path: Path, data: bytes, mode: int = SECRET_MODE) -> None:
        self._point(f"before write {path.name}")
        half = len(data) // 2
        super().write_file(path, data[:half], mode)
        self._medium.created(path)  # Truncated, or new: nothing of it is durable.
        self._point(f"middle of write {path.name}")
        super().append(path, data[half:])
        path.chmod(mode)
        self._point(f"after write {path.name}")

    def write_stream(self, path: Path, chunks: Iterator[bytes], mode: int = SECRET_MODE) -> None:
        self._point(f"before stream {path.name}")

        def watched() -> Iterator[bytes]:
            self._medium.created(path)
            for chunk in chunks:
                yield chunk[: len(chunk) // 2]
                self._point(f"middle of stream {path.name}")
                yield chunk[len(chunk) // 2 :]

        super().write_stream(path, watched(), mode)
        self._point(f"after stream {path.name}")

    def append(self, path: Path, data: bytes) -> None:
        self._point(f"before append {path.name}")
        is_new = not path.exists()
        super().append(path, data[: len(data) // 2])
        if is_new:
            self._medium.created(path)
        self._point(f"middle of append {path.name}")
        super().append(path, data[len(data) // 2 :])
        self._point(f"after append {path.name}")

    def sync_file(self, path: Path) -> None:
        self._point(f"before fsync {path.name}")
        super().sync_file(path)
        self._medium.file_synced(path)
        self._point(f"after fsync {path.name}")

    def sync_folder(self, path: Path) -> None:
        self._point(f"before fsync of folder {path.name}")
        super().sync_folder(path)
        self._medium.folder_synced(path)
        self._point(f"after fsync of folder {path.name}")

    def rename(self, source: Path, target: Path) -> None:
        self._point(f"before rename to {target.name}")
        super().rename(source, target)
        self._point(f"after rename to {target.name}")

    def symlink(self, text: str, path: Path) -> None:
        self._point(f"before symlink {path.name}")
        super().symlink(text, path)
        self._point(f"after symlink {path.name}")

    def unlink(self, path: Path) -> None:
        self._point(f"before unlink {path.name}")
        super().unlink(path)
        self._point(f"after unlink {path.name}")

    def make_folder(self, path: Path, mode: int = FOLDER_MODE) -> None:
        if path.is_dir():
            super().make_folder(path, mode)
            return
        self.make_folder(path.parent, FOLDER_MODE)
        self._point(f"before mkdir {path.name}")
        super().make_folder(path, mode)
        self._medium.created(path)
        self._point(f"after mkdir {path.name}")

    def remove_tree(self, path: Path) -> None:
        if not path.exists():
            return
        self._point(f"before removal of {path.name}")
        # A removal takes many steps: here it stops after the first file.
        for inside in sorted(path.rglob("*")):
            if inside.is_symlink() or not inside.is_dir():
                inside.unlink()
                self._point(f"middle of removal of {path.name}")
                break
        super().remove_tree(path)
        self._point(f"after removal of {path.name}")

"""The model of a medium, tested first: a model that loses too little would let every mistake pass."""

from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.ports.storage import Storage, replace_file, replace_symlink
from tests.faults.medium import FragileStorage, Loss, Medium


class PowerCut(Exception):
    pass


class Countdown:
    """The cut comes at the nth point."""

    def __init__(self, points: int) -> None:
        self.left = points

    def __call__(self, _label: str) -> None:
        self.left -= 1
        if not self.left:
            raise PowerCut


def outcomes(folder: Path, change: Callable[[Storage], None], loss: Loss) -> list[dict[str, str]]:
    """What is in the folder after a cut at each point of a change, in order; each from the same start."""
    found: list[dict[str, str]] = []
    while True:
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            path.unlink()
        (folder / "file").write_text("old!")
        (folder / "link").symlink_to("old")
        medium = Medium(folder)
        try:
            change(FragileStorage(medium, Countdown(len(found) + 1)))
        except PowerCut:
            medium.lose(loss, len(found))
            found.append(read(folder))
        else:
            return found


def read(folder: Path) -> dict[str, str]:
    return {p.name: str(p.readlink()) if p.is_symlink() else p.read_text() for p in folder.iterdir()}


@pytest.mark.parametrize("loss", Loss)
def test_a_replaced_file_is_old_or_new(tmp_path: Path, loss: Loss) -> None:
    states = outcomes(tmp_path / "f", lambda storage: replace_file(storage, tmp_path / "f/file", b"new!"), loss)
    assert len(states) == 9
    assert {state["file"] for state in states} == {"old!", "new!"}
    assert states[-1]["file"] == "new!"


@pytest.mark.parametrize("loss", Loss)
def test_a_replaced_link_is_old_or_new(tmp_path: Path, loss: Loss) -> None:
    states = outcomes(tmp_path / "f", lambda storage: replace_symlink(storage, tmp_path / "f/link", "new"), loss)
    assert {state["link"] for state in states} == {"old", "new"}
    assert states[-1]["link"] == "new"


def careless(storage: Storage, file: Path) -> None:
    """Replaces a file without the fsync of its content: the classic mistake."""
    storage.write_file(file.with_name("file.next"), b"new!")
    storage.rename(file.with_name("file.next"), file)
    storage.sync_folder(file.parent)


@pytest.mark.parametrize(("loss", "left"), [(Loss.EVERYTHING, ""), (Loss.CONTENTS, ""), (Loss.HALF, "ne")])
def test_a_content_that_was_not_synced_is_lost(tmp_path: Path, loss: Loss, left: str) -> None:
    states = outcomes(tmp_path / "f", lambda storage: careless(storage, tmp_path / "f/file"), loss)
    assert states[-1]["file"] == left


def test_a_name_that_was_not_synced_is_lost(tmp_path: Path) -> None:
    def forgetful(storage: Storage) -> None:
        storage.write_file(tmp_path / "f/file.next", b"new!")
        storage.sync_file(tmp_path / "f/file.next")
        storage.rename(tmp_path / "f/file.next", tmp_path / "f/file")

    assert outcomes(tmp_path / "f", forgetful, Loss.EVERYTHING)[-1] == {"file": "old!", "link": "old"}
    assert outcomes(tmp_path / "f", forgetful, Loss.CONTENTS)[-1] == {"file": "new!", "link": "old"}


def test_a_folder_that_was_not_synced_is_empty(tmp_path: Path) -> None:
    def fill(storage: Storage) -> None:
        storage.make_folder(tmp_path / "f/slot")
        storage.write_file(tmp_path / "f/slot/x", b"x")
        storage.sync_file(tmp_path / "f/slot/x")

    (tmp_path / "f").mkdir()
    medium = Medium(tmp_path / "f")
    storage = FragileStorage(medium, lambda _label: None)
    fill(storage)
    storage.sync_folder(tmp_path / "f")
    medium.lose(Loss.EVERYTHING, 0)
    assert [path.name for path in (tmp_path / "f").rglob("*")] == ["slot"]


def test_an_appended_record_is_whole_after_its_sync(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f/log").write_bytes(b"first\n")
    medium = Medium(tmp_path / "f")
    storage = FragileStorage(medium, lambda _label: None)
    storage.append(tmp_path / "f/log", b"second\n")
    storage.sync_file(tmp_path / "f/log")
    storage.append(tmp_path / "f/log", b"third\n")
    medium.lose(Loss.EVERYTHING, 0)
    assert (tmp_path / "f/log").read_bytes() == b"first\nsecond\n"

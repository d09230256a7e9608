"""All components are switched in one step, and only by links that were made here."""

from pathlib import Path

import pytest

from device_agent.handlers.slot_set import current_set, current_slot, switch_set
from device_agent.ports.storage import DiskStorage


class Counting(DiskStorage):
    """Sees what is current after every rename: each is a moment at which the power may go."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: list[dict[str, str]] = []

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.seen.append({name: current_slot(self._folder, name) for name in ("params", "server", "tool")})


@pytest.fixture
def slots(tmp_path: Path) -> Path:
    folder = tmp_path / "slots"
    for component in ("params", "server", "tool"):
        for slot in ("a", "b"):
            (folder / component / slot).mkdir(parents=True)
            (folder / component / slot / "which").write_text(f"{component} {slot}")
    return folder


def which(slots: Path, component: str) -> str:
    return (slots / component / "current" / "which").read_text()


def test_components_are_switched_together_and_back(slots: Path) -> None:
    storage = Counting(slots)
    switch_set(storage, slots, {"params": "a", "server": "a"})
    assert (which(slots, "params"), which(slots, "server")) == ("params a", "server a")
    storage.seen.clear()
    switch_set(storage, slots, {"params": "b", "server": "b"})
    assert (which(slots, "params"), which(slots, "server")) == ("params b", "server b")
    switch_set(storage, slots, {"params": "a", "server": "a"})
    assert current_set(slots) == {"params": "a", "server": "a"}
    assert all(seen["params"] == seen["server"] for seen in storage.seen)
    assert len(storage.seen) == 2


def test_what_is_not_named_stays(slots: Path) -> None:
    storage = DiskStorage()
    switch_set(storage, slots, {"params": "a", "server": "a"})
    switch_set(storage, slots, {"server": "b"})
    assert current_set(slots) == {"params": "a", "server": "b"}


def test_the_first_components_appear_together(slots: Path) -> None:
    storage = Counting(slots)
    switch_set(storage, slots, {"params": "a", "server": "b"})
    assert [(seen["params"], seen["server"]) for seen in storage.seen][-1] == ("a", "b")
    assert {(seen["params"], seen["server"]) for seen in storage.seen} == {("", ""), ("a", "b")}


def test_a_component_is_taken_away(slots: Path) -> None:
    storage = DiskStorage()
    switch_set(storage, slots, {"server": "a"})
    switch_set(storage, slots, {"tool": "a"})
    switch_set(storage, slots, {"tool": ""})
    assert current_set(slots) == {"server": "a"}
    assert current_slot(slots, "tool") == ""
    assert not (slots / "tool" / "current").exists()


def test_the_same_switch_again_changes_nothing(slots: Path) -> None:
    storage = Counting(slots)
    switch_set(storage, slots, {"server": "a"})
    storage.seen.clear()
    switch_set(storage, slots, {"server": "a"})
    assert storage.seen == []
    switch_set(storage, slots / "nowhere", {"server": ""})
    assert not (slots / "nowhere").exists()


@pytest.mark.parametrize("text", ["/etc", "../../..", "c", "../params/a"])
def test_a_link_that_somebody_made_leads_nowhere(slots: Path, text: str) -> None:
    switch_set(DiskStorage(), slots, {"server": "a"})
    link = slots / ".set" / "server"
    link.unlink()
    link.symlink_to(text)
    assert current_slot(slots, "server") == ""
    (slots / ".set").unlink()
    (slots / ".set").symlink_to(text)
    assert current_set(slots) == {}

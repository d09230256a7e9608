"""The sweep goes red when the agent makes a classic mistake: each is made here on purpose, in the forked child."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from device_agent.core.plan import Item, Plan
from device_agent.handlers import slot_set
from device_agent.handlers.slots import SlotHandler
from device_agent.ports.outbox import Outbox
from device_agent.ports.storage import Storage
from device_agent.worker import install, loop
from tests.faults.lab import BAD, GOOD, Lab, points_of, sweep
from tests.faults.medium import FragileStorage, Loss
from tests.faults.power_cut import Cut

pytestmark = pytest.mark.slow

Mistake = Callable[[pytest.MonkeyPatch], None]


def journal_without_its_content_synced(patch: pytest.MonkeyPatch) -> None:
    def careless(storage: Storage, path: Path, data: bytes) -> None:
        temporary = path.with_name(path.name + ".next")
        storage.write_file(temporary, data)
        storage.rename(temporary, path)
        storage.sync_folder(path.parent)

    patch.setattr(loop, "replace_file", careless)


def slot_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FragileStorage, "sync_tree", lambda *_: None)


def switch_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    def careless(storage: Storage, path: Path, text: str) -> None:
        storage.symlink(text, path.with_name("next"))
        storage.rename(path.with_name("next"), path)

    patch.setattr(slot_set, "replace_symlink", careless)


def components_switched_one_by_one(patch: pytest.MonkeyPatch) -> None:
    def apart(self: SlotHandler, items: Sequence[Item]) -> None:
        for item in items:
            slot_set.switch_set(self._storage, self._folder, {item.component.name: item.slot})

    patch.setattr(SlotHandler, "switch", apart)


def rollback_of_one_component_only(patch: pytest.MonkeyPatch) -> None:
    def half(self: install.Installation, plan: Plan) -> None:
        self._handler(plan.items[0]).rollback(plan.items[:1])
        self._activate()

    patch.setattr(install.Installation, "switch_back", half)


def report_counter_without_a_sync(patch: pytest.MonkeyPatch) -> None:
    def careless(self: Outbox) -> int:
        self._storage.make_folder(self._folder)
        path = self._folder / "counter"
        counter = int(path.read_bytes() or b"0") + 1 if path.exists() else 1
        self._storage.write_file(path, str(counter).encode())
        return counter

    patch.setattr(Outbox, "next_counter", careless)


MISTAKES: dict[str, tuple[Mistake, str, Loss, str]] = {
    "the journal's content is not synced": (
        journal_without_its_content_synced,
        GOOD,
        Loss.CONTENTS,
        "after fsync of folder state",
    ),
    "a slot is not synced before the switch": (slot_without_a_sync, GOOD, Loss.EVERYTHING, "after switch of"),
    "a switch is not synced": (switch_without_a_sync, GOOD, Loss.EVERYTHING, "before command"),
    "components are switched one by one": (
        components_switched_one_by_one,
        GOOD,
        Loss.NOTHING,
        "after rename to .set",
    ),
    "only one component is rolled back": (rollback_of_one_component_only, BAD, Loss.NOTHING, ""),
    "the report counter is not synced": (
        report_counter_without_a_sync,
        GOOD,
        Loss.EVERYTHING,
        "after POST /device/v1/reports",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_power_cut_finds(lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake, kind, loss, label = MISTAKES[name]
    mistake(monkeypatch)
    cuts = [[Cut(0)]]
    if label:
        # Without a cut, nobody notices.
        points = points_of(lab, kind)
        cuts = [[Cut(at, loss)] for at, passed in enumerate(points, 1) if passed.startswith(label)] + cuts
        assert len(cuts) > 1, f"no point is called {label!r}"
    with pytest.raises(AssertionError):
        # One more update after the cuts: what a craft lost may show only there.
        sweep(lab, kind, cuts)

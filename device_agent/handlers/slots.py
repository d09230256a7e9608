"""A/B slots: `slots/COMPONENT/{a,b}`, and the link `current` that leads to one of them.

The slot that is not current may hold anything at any time; nothing reads it before it is staged, read back and
switched to.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from device_agent.core.errors import InstallError
from device_agent.core.plan import Item
from device_agent.handlers.slot_set import OPEN_MODE, SLOTS, current_slot, switch_set
from device_agent.ports.storage import Storage, lasting_folder


class Handler(Protocol):
    """What installs components of one type. Every method is idempotent: the journal may have it called again.

    Attributes:
        group: Handlers of one group switch the items of all of them in one step; any of them may be asked to.
    """

    @property
    def group(self) -> str: ...

    def check(self, item: Item) -> None:
        """Refuse an item that can never be staged.

        Raises:
            InstallError: With what is wrong.
        """

    def stage(self, item: Item, chunks: Iterator[bytes]) -> None:
        """Fill the inactive slot and wait until it is on the medium."""

    def verify(self, item: Item) -> None:
        """Read the staged slot back and compare it with the signed digest.

        Raises:
            InstallError: It differs.
        """

    def switch(self, items: Sequence[Item]) -> None:
        """Make the staged items of the group current, all at once."""

    def discard(self, item: Item) -> None:
        """Empty the slot of an item that will not be switched to."""

    def rollback(self, items: Sequence[Item]) -> None:
        """Make what was current before current again, or nothing where there was nothing, all at once."""

    def digest(self, component: str, slot: str, file_name: str) -> str | None:
        """The canonical digest of what is in a slot; None where it has no canonical form or is missing."""


class SlotHandler:
    """The part that all slot-based handlers share.

    Args:
        folder: STATE/slots.
        storage: Every change goes through it.
    """

    group = "slots"

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._folder = folder
        self._storage = storage

    def check(self, item: Item) -> None:
        if item.slot not in SLOTS or item.slot == item.previous or item.previous not in ("", *SLOTS):
            raise InstallError(f"The plan installs {item.component.name} into the slot {item.slot!r}.")

    def stage(self, item: Item, chunks: Iterator[bytes]) -> None:
        slot = self._slot(item)
        if current_slot(self._folder, item.component.name) == item.slot:
            raise InstallError(f"{slot} is current and cannot be written to.")
        # What an earlier start has staged, while the gate closed again, is only waited for.
        if self.digest(item.component.name, item.slot, item.file_name) != item.component.sha256:
            self._storage.remove_tree(slot)
            lasting_folder(self._storage, slot.parent, OPEN_MODE)
            self._storage.make_folder(slot, OPEN_MODE)
            self._fill(slot, item, chunks)
        self._storage.sync_tree(slot)
        self._storage.sync_folder(slot.parent)
        self._storage.sync_folder(self._folder)

    def verify(self, item: Item) -> None:
        found = self.digest(item.component.name, item.slot, item.file_name)
        if found != item.component.sha256:
            raise InstallError(
                f"{item.component.name} reads back from its slot as {found or 'unreadable'}, not as "
                f"{item.component.sha256}: a faulty medium, or an archive that is not in canonical form."
            )

    def switch(self, items: Sequence[Item]) -> None:
        switch_set(self._storage, self._folder, {item.component.name: item.slot for item in items})

    def discard(self, item: Item) -> None:
        if current_slot(self._folder, item.component.name) != item.slot:
            self._storage.remove_tree(self._slot(item))

    def rollback(self, items: Sequence[Item]) -> None:
        switch_set(self._storage, self._folder, {item.component.name: item.previous for item in items})

    def digest(self, component: str, slot: str, file_name: str) -> str | None:
        try:
            return self._read_back(self._folder / component / slot, file_name)
        except (OSError, InstallError):
            return None

    def _slot(self, item: Item) -> Path:
        return self._folder / item.component.name / item.slot

    def _fill(self, slot: Path, item: Item, chunks: Iterator[bytes]) -> None:
        raise NotImplementedError

    def _read_back(self, slot: Path, file_name: str) -> str:
        raise NotImplementedError

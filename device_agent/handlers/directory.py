"""`directory`: a canonical tar, unpacked into an A/B slot."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from device_agent.core.errors import InstallError
from device_agent.core.plan import Item
from device_agent.handlers import archive
from device_agent.handlers.slots import SlotHandler


class DirectoryHandler(SlotHandler):
    def _fill(self, slot: Path, item: Item, chunks: Iterator[bytes]) -> None:
        archive.unpack(chunks, slot, self._storage)

    def _read_back(self, slot: Path, file_name: str) -> str:
        if not slot.is_dir():
            raise InstallError(f"{slot} is missing.")
        packed = hashlib.sha256()
        archive.pack(slot, packed.update)
        return packed.hexdigest()

"""`file`: one file in an A/B slot."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from device_agent.core.errors import InstallError
from device_agent.core.plan import Item
from device_agent.handlers.slots import SlotHandler

_MODE = 0o755
"""A payload may be a program; a configuration file does not mind the executable bit."""


class FileHandler(SlotHandler):
    def check(self, item: Item) -> None:
        super().check(item)
        if not item.file_name or "/" in item.file_name or item.file_name.startswith("."):
            raise InstallError(f"{item.component.name} has the file name {item.file_name!r}.")

    def _fill(self, slot: Path, item: Item, chunks: Iterator[bytes]) -> None:
        self._storage.write_stream(slot / item.file_name, chunks, _MODE)

    def _read_back(self, slot: Path, file_name: str) -> str:
        names = [entry.name for entry in slot.iterdir()]
        if names != [file_name] or (slot / file_name).is_symlink():
            raise InstallError(f"{slot} holds something else than {file_name}.")
        with (slot / file_name).open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

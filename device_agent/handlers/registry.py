"""Which handler installs which component type."""

from collections.abc import Mapping
from pathlib import Path

from device_agent.handlers.directory import DirectoryHandler
from device_agent.handlers.file import FileHandler
from device_agent.handlers.slots import Handler
from device_agent.ports.storage import Storage


def handlers(slots: Path, storage: Storage) -> Mapping[str, Handler]:
    """A handler for each component type that this agent can install.

    Args:
        slots: STATE/slots.
        storage: Every change goes through it.
    """
    return {"directory": DirectoryHandler(slots, storage), "file": FileHandler(slots, storage)}

"""What the device knows about itself, read back from its slots."""

from collections.abc import Mapping
from pathlib import Path

from device_agent.core.journal import Journal
from device_agent.core.plan import Facts, Running
from device_agent.handlers.slot_set import current_slot
from device_agent.handlers.slots import Handler


def gather(journal: Journal, handlers: Mapping[str, Handler], slots: Path, device: str, hardware: str) -> Facts:
    """The device's side of every comparison.

    Content is hashed anew: a slot that was damaged or changed by hand counts as something else than what was signed,
    and is installed again.
    """
    running: dict[str, Running] = {}
    current: dict[str, str] = {}
    for entry in journal.installed:
        component = entry.component
        slot = current_slot(slots, component.name)
        if not slot:
            continue
        current[component.name] = slot
        handler = handlers.get(component.type)
        digest = handler.digest(component.name, slot, entry.file_name) if handler is not None else None
        if digest is not None:
            running[component.name] = Running(component.type, entry.file_name, digest)
    return Facts(
        device=device,
        hardware=hardware,
        types=frozenset(handlers),
        floors=journal.floors,
        releases=journal.releases,
        running=running,
        slots=current,
        bad=journal.bad_sets(),
    )

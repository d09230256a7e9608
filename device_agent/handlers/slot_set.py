"""Which slot of each component is current: one link for all components, so that they are switched in one step.

    slots/.set                     -> .sets/a or .sets/b: the only link that is ever switched
    slots/.sets/{a,b}/COMPONENT    -> ../../COMPONENT/{a,b}
    slots/COMPONENT/current        -> ../.set/COMPONENT: made once

The components of a release belong together. With a link for each of them, a power cut between two switches would leave
a mixed set to whatever starts at the next boot before the agent does; here there is no in-between.
"""

from collections.abc import Mapping
from pathlib import Path

from device_agent.ports.storage import Storage, lasting_folder, replace_symlink

SLOTS = ("a", "b")
OPEN_MODE = 0o755
CURRENT = "current"
_SET, _SETS = ".set", ".sets"


def current_slot(folder: Path, component: str) -> str:
    """The current slot of a component, or an empty string.

    Args:
        folder: STATE/slots.
        component: Its name.
    """
    if _text(folder / component / CURRENT) != _through_the_set(component):
        return ""
    return current_set(folder).get(component, "")


def current_set(folder: Path) -> dict[str, str]:
    """The current slot of each component."""
    if _text(folder / _SET) not in {f"{_SETS}/{name}" for name in SLOTS}:
        return {}
    found: dict[str, str] = {}
    links = sorted((folder / _SET).iterdir()) if (folder / _SET).is_dir() else []
    for link in links:
        for slot in SLOTS:
            if _text(link) == _to_the_slot(link.name, slot):
                found[link.name] = slot
    return found


def switch_set(storage: Storage, folder: Path, changes: Mapping[str, str]) -> None:
    """Make these slots current, all at once; idempotent.

    Args:
        storage: Every change goes through it.
        folder: STATE/slots.
        changes: Component to slot; an empty slot takes the component away.
    """
    before = current_set(folder)
    after = {component: slot for component, slot in (before | dict(changes)).items() if slot}
    for component in after:
        if _text(folder / component / CURRENT) != _through_the_set(component):
            replace_symlink(storage, folder / component / CURRENT, _through_the_set(component))
    if after == before:
        # The link may be new, and not on the medium yet.
        if folder.is_dir():
            storage.sync_folder(folder)
        return
    other = "b" if _text(folder / _SET) == f"{_SETS}/a" else "a"
    place = folder / _SETS / other
    storage.remove_tree(place)
    lasting_folder(storage, place, OPEN_MODE)
    for component, slot in sorted(after.items()):
        storage.symlink(_to_the_slot(component, slot), place / component)
    storage.sync_folder(place)
    replace_symlink(storage, folder / _SET, f"{_SETS}/{other}")


def _through_the_set(component: str) -> str:
    return f"../{_SET}/{component}"


def _to_the_slot(component: str, slot: str) -> str:
    return f"../../{component}/{slot}"


def _text(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""

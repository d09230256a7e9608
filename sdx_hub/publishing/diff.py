"""What differs between two releases: for the person who is asked to sign the second one."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from firmware_schemas.release import Component, ReleaseManifest
from sdx_hub.publishing.listing import Listed

_PLAIN = (
    "version",
    "release_counter",
    "revert_counter",
    "must_pass",
    "hardware",
    "requires",
    "conflicts",
    "fixes",
    "notes",
    "sbom",
    "trial_s",
)

Lister = Callable[[Component], Mapping[str, Listed] | None]
"""The files of a `directory` component by their path, or None where they cannot be had."""


class Change(Struct, frozen=True):
    """One difference.

    Attributes:
        where: `release`, `component NAME`, `document NAME`, or `NAME: PATH` for a file inside a component.
        what: `added`, `removed`, or the field that changed.
        before, after: JSON-ready; None where there is nothing.
    """

    where: str
    what: str
    before: Any = None
    after: Any = None


def compare(
    old: ReleaseManifest, new: ReleaseManifest, files_of_old: Lister | None = None, files_of_new: Lister | None = None
) -> list[Change]:
    """List the differences, the release's own first.

    Args:
        old: The manifest to compare with.
        new: The manifest that may differ.
        files_of_old: Looks into the `directory` components of the old release; None compares digests only.
        files_of_new: As `files_of_old`.
    """
    changes = []
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    if old.product != new.product:
        changes.append(Change("release", "product", old.product, new.product))
    changes += [
        Change("release", name, before.get(name), after.get(name))
        for name in _PLAIN
        if before.get(name) != after.get(name)
    ]
    changes += _parts("component", {part.name: part for part in old.components}, {p.name: p for p in new.components})
    changes += _parts("document", {doc.name: doc for doc in old.documents}, {doc.name: doc for doc in new.documents})
    if files_of_old is not None and files_of_new is not None:
        for part in new.components:
            was = old.component(part.name)
            if was is not None and was.sha256 != part.sha256 and was.type == part.type == "directory":
                changes += _files(part.name, files_of_old(was), files_of_new(part))
    return changes


def _parts(kind: str, old: Mapping[str, Struct], new: Mapping[str, Struct]) -> Iterable[Change]:
    for name in sorted(old.keys() | new.keys()):
        where = f"{kind} {name}"
        before, after = (msgspec.to_builtins(each[name]) if name in each else None for each in (old, new))
        if before is None or after is None:
            yield Change(where, "added" if before is None else "removed", before, after)
            continue
        for field in sorted(before.keys() | after.keys()):
            if before.get(field) != after.get(field):
                yield Change(where, field, before.get(field), after.get(field))


def _files(name: str, old: Mapping[str, Listed] | None, new: Mapping[str, Listed] | None) -> Iterable[Change]:
    if old is None or new is None:
        return
    for path in sorted(old.keys() | new.keys()):
        before, after = (_described(each[path]) if path in each else None for each in (old, new))
        if before == after:
            continue
        what = "added" if before is None else "removed" if after is None else "changed"
        yield Change(f"{name}: {path}", what, before, after)


def _described(listed: Listed) -> dict[str, Any]:
    entry = listed.entry
    if entry.kind == "link":
        return {"kind": "link", "to": entry.link}
    if entry.kind == "folder":
        return {"kind": "folder"}
    return {"kind": "file", "size": entry.size, "sha256": listed.sha256, "executable": entry.executable}

"""What differs between two releases, down to the files inside of a folder."""

from collections.abc import Mapping

from firmware_schemas.release import Component, Document, HealthCheck, ReleaseManifest
from sdx_hub.publishing import diff, listing
from sdx_hub.publishing.diff import Change
from sdx_hub.publishing.listing import Listed
from tests.support.publisher import canonical_tar
from tests.support.team import manifest


def found(old: ReleaseManifest, new: ReleaseManifest) -> set[tuple[str, str]]:
    return {(change.where, change.what) for change in diff.compare(old, new)}


def test_nothing() -> None:
    assert diff.compare(manifest(), manifest()) == []


def test_the_releases_own_fields() -> None:
    new = manifest("1.1.0", release_counter=2, fixes=("FB-1",), notes="x", hardware=("rpi-4",), trial_s=5)
    assert found(manifest(), new) == {
        ("release", name) for name in ("version", "release_counter", "fixes", "notes", "hardware", "trial_s")
    }
    back = manifest("1.1.0", release_counter=2, revert_counter=1, must_pass=True)
    assert {("release", "revert_counter"), ("release", "must_pass")} <= found(manifest(), back)
    assert ("release", "product") in found(manifest(), manifest(product="other"))


def test_components_and_documents() -> None:
    health = HealthCheck(("./check",))
    old = manifest(components=(Component("a", "file", "a" * 64, 1), Component("b", "file", "b" * 64, 1)))
    new = manifest(
        components=(Component("a", "file", "c" * 64, 2, health=health), Component("d", "file", "d" * 64, 1)),
        documents=(Document("bom.json", "e" * 64, 1),),
    )
    assert found(old, new) == {
        ("component a", "sha256"),
        ("component a", "length"),
        ("component a", "health"),
        ("component b", "removed"),
        ("component d", "added"),
        ("document bom.json", "added"),
    }


def test_inside_a_folder() -> None:
    trees = {
        "a" * 64: canonical_tar({"same": b"1", "run": b"#!/bin/sh\n", "gone": b"x", "lib/a": b"1"}),
        "b" * 64: canonical_tar({"same": b"1", "run": b"no longer a script", "new": b"y", "lib/a": b"2"}),
    }

    def files(part: Component) -> Mapping[str, Listed]:
        return {each.entry.path: each for each in listing.read([trees[part.sha256]])}

    old = manifest(components=(Component("app", "directory", "a" * 64, 1),))
    new = manifest(components=(Component("app", "directory", "b" * 64, 1),))
    changes = {change.where: change for change in diff.compare(old, new, files, files) if ": " in change.where}
    assert {where: change.what for where, change in changes.items()} == {
        "app: gone": "removed",
        "app: new": "added",
        "app: run": "changed",
        "app: lib/a": "changed",
    }
    assert changes["app: run"].before["executable"] is True
    assert changes["app: run"].after["executable"] is False
    assert changes["app: gone"] == Change("app: gone", "removed", changes["app: gone"].before, None)

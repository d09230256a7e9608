"""Building: the same sources give the same file, and what cannot be released is refused with its code."""

import os
import shutil
import stat
from pathlib import Path

import msgspec
import pytest

from firmware_schemas.errors import InvalidManifest, InvalidName
from firmware_schemas.release import Constraint, HealthCheck
from sdx_hub.domain.errors import BadInput
from sdx_hub.publishing import building, bundle
from sdx_hub.publishing.building import ComponentSource, ReleaseRequest
from sdx_hub.publishing.errors import BuildRefused


def make_sources(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}\n")
    (folder / "app" / "link").symlink_to("a")
    (folder / "app" / "run").chmod(0o755)
    return folder


def request(folder: Path, components: list[ComponentSource], **fields: object) -> ReleaseRequest:
    values = {"hardware": ("rpi-cm4", "rpi-4"), "sbom": folder / "bom.json", "notes": "Größer"} | fields
    return ReleaseRequest("nav", "1.2.3", tuple(components), **values)  # type: ignore[arg-type]


NAMES = ["app/a", "app/run", "app/sub/b", "app.txt", "copter.param", "bom.json"]


def test_copies_with_other_times_umask_and_order_give_the_same_bytes(tmp_path: Path) -> None:
    one = make_sources(tmp_path / "one", NAMES)
    before = os.umask(0o077)
    try:
        two = make_sources(tmp_path / "two", list(reversed(NAMES)))
    finally:
        os.umask(before)
    for number, path in enumerate(sorted(two.rglob("*"))):
        os.utime(path, (number, number), follow_symlinks=False)

    def parts(folder: Path) -> list[ComponentSource]:
        return [
            ComponentSource("app", "directory", folder / "app", health=HealthCheck(("./run",))),
            ComponentSource("params", "file", folder / "copter.param", "params.txt"),
        ]

    first = building.build(request(one, parts(one)), tmp_path / "one.sdx")
    second = building.build(
        request(two, parts(two)[::-1], hardware=("rpi-4", "rpi-cm4", "rpi-4")), tmp_path / "two.sdx"
    )
    assert first.path.read_bytes() == second.path.read_bytes()
    assert stat.S_IMODE(second.path.stat().st_mode) == 0o644
    (two / "app" / "a").write_text("another\n")
    third = building.build(request(two, parts(two)), tmp_path / "three.sdx")
    assert third.path.read_bytes() != first.path.read_bytes()


def test_the_manifest_says_what_was_asked_for(tmp_path: Path) -> None:
    folder = make_sources(tmp_path / "src", NAMES)
    asked = request(
        folder,
        [ComponentSource("app", "directory", folder / "app", health=HealthCheck(("./run", "--fast"), 10))],
        requires=(building.parse_constraint("base>=2.0.0"),),
        conflicts=(building.parse_constraint("legacy>=0"),),
        fixes=("FB-2", "FB-1", "FB-2"),
        documents=(folder / "app.txt",),
        trial_s=60,
        revert_counter=1_002_000,
        must_pass=True,
    )
    manifest = building.build(asked, tmp_path / "x.sdx").manifest
    assert (manifest.release_counter, manifest.revert_counter, manifest.must_pass) == (1_002_003, 1_002_000, True)
    assert manifest.hardware == ("rpi-4", "rpi-cm4")
    assert manifest.fixes == ("FB-1", "FB-2")
    assert manifest.requires == (Constraint("base", 2_000_000),)
    assert [document.name for document in manifest.documents] == ["app.txt", "bom.json"]
    assert (manifest.sbom, manifest.trial_s, manifest.notes) == ("bom.json", 60, "Größer")
    assert manifest.components[0].health == HealthCheck(("./run", "--fast"), 10)


def test_one_payload_for_two_components_is_stored_once(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("same")
    built = building.build(
        ReleaseRequest("nav", "1.0.0", (ComponentSource("a", "file", file), ComponentSource("b", "file", file))),
        tmp_path / "x.sdx",
    )
    assert len(built.payloads) == 1
    assert bundle.read(built.path).manifest == built.manifest


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"version": "nightly"}, BadInput, "counter_missing"),
        ({"version": "../1"}, InvalidName, "invalid_name"),
        ({"product": "Nav"}, InvalidName, "invalid_name"),
        ({"components": ()}, BadInput, "release_empty"),
        ({"notes": "x" * 9000}, BadInput, "text_too_long"),
        ({"sbom": Path("/nonexistent")}, BuildRefused, "source_missing"),
        ({"hardware": ("Rpi",)}, InvalidManifest, "invalid_manifest"),
        ({"revert_counter": 1_002_004}, InvalidManifest, "invalid_manifest"),
    ],
)
def test_what_cannot_be_released_leaves_nothing_behind(
    tmp_path: Path, fields: dict[str, object], error: type[Exception], code: str
) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    good = ReleaseRequest("nav", "1.0.0", (ComponentSource("a", "file", file),))
    building.build(good, tmp_path / "good.sdx")
    bad = msgspec.structs.replace(good, **fields)
    with pytest.raises(error) as refused:
        building.build(bad, tmp_path / "bad.sdx")
    assert refused.value.code == code  # type: ignore[attr-defined]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "good.sdx"]


def test_names_that_would_clash_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "release.json"
    file.write_text("x")
    for names in (["a", "a"], ["release.json"], ["doc.a"]):
        parts = tuple(ComponentSource(name, "file", file) for name in names)
        with pytest.raises(InvalidManifest):
            building.build(ReleaseRequest("nav", "1.0.0", parts), tmp_path / "x.sdx")
    (tmp_path / "sub").mkdir()
    shutil.copy(file, tmp_path / "sub" / "release.json")
    twice = (file, tmp_path / "sub" / "release.json")
    with pytest.raises(InvalidManifest):
        building.build(
            ReleaseRequest("nav", "1.0.0", (ComponentSource("a", "file", file),), documents=twice), tmp_path / "x.sdx"
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base>=1.2.3", (1_002_003, 2**53 - 1)),
        ("base > 5", (6, 2**53 - 1)),
        ("base<2.0.0", (0, 1_999_999)),
        ("base<=7", (0, 7)),
        ("base=1.0.0", (1_000_000, 1_000_000)),
        ("base==3", (3, 3)),
    ],
)
def test_constraints(text: str, expected: tuple[int, int]) -> None:
    constraint = building.parse_constraint(text)
    assert (constraint.min_counter, constraint.max_counter) == expected


@pytest.mark.parametrize("text", ["base", "base>=", "base>=x", ">=1.0.0", "base<0", "base~1.0.0", "Base>=1.0.0"])
def test_constraints_that_say_nothing_are_refused(text: str) -> None:
    with pytest.raises((BadInput, InvalidName)):
        building.parse_constraint(text)


def test_components_by_word(tmp_path: Path) -> None:
    assert building.parse_component("app=directory:./a=b:c") == ComponentSource("app", "directory", Path("./a=b:c"))
    assert building.component_of_source(tmp_path).type == "directory"
    for text in ("app", "app=directory", "app:directory=x", "=directory:x", "app=directory:"):
        with pytest.raises((BadInput, InvalidName)):
            building.parse_component(text)

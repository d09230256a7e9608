"""The .sdx file: what goes in comes out, and whatever was changed on the way is noticed."""

import hashlib
import io
import random
import tarfile
from pathlib import Path

import msgspec
import pytest
import zstandard

from firmware_schemas.errors import SchemaError
from firmware_schemas.release import Component, Document, ReleaseManifest, encode_manifest
from sdx_hub.domain.errors import HubError
from sdx_hub.publishing import building, bundle, payload, signing, verifying
from sdx_hub.publishing.archive import Entry, header
from sdx_hub.publishing.building import ComponentSource, ReleaseRequest
from sdx_hub.publishing.bundle import Bundle
from sdx_hub.publishing.errors import BundleRefused
from tests.support.publisher import canonical_tar
from tests.support.team import NOW, ROLE, Team

CHANCE = random.Random(20260301)


@pytest.fixture
def built(tmp_path: Path) -> Bundle:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "app").write_bytes(CHANCE.randbytes(3000))
    params = tmp_path / "copter.param"
    params.write_text("RTL_ALT,1500\n")
    sbom = tmp_path / "bom.json"
    sbom.write_text('{"bomFormat":"CycloneDX"}')
    request = ReleaseRequest(
        "nav",
        "1.2.3",
        (ComponentSource("app", "directory", tree), ComponentSource("params", "file", params)),
        hardware=("rpi-cm4",),
        sbom=sbom,
    )
    return building.build(request, tmp_path / "nav.sdx")


def content_of(path: Path) -> dict[str, bytes]:
    """What would be published: the manifest and every canonical payload."""
    opened = verifying.verify(bundle.read(path)).bundle
    found = {"manifest": opened.manifest_raw, "signed": opened.signed.raw if opened.signed else b""}
    for component in opened.manifest.components:
        with opened.content(opened.payloads[component.sha256]) as file:
            found[component.name] = b"".join(payload.unpack(file, component.sha256, component.length))
    for document in opened.manifest.documents:
        with opened.content(opened.documents[document.sha256]) as file:
            found[document.name] = file.read()
    return found


def test_round_trip(built: Bundle) -> None:
    found = content_of(built.path)
    assert found["params"] == b"RTL_ALT,1500\n"
    assert found["bom.json"] == b'{"bomFormat":"CycloneDX"}'
    with tarfile.open(fileobj=io.BytesIO(found["app"])) as tar:
        assert tar.getnames() == ["bin", "bin/app"]


def test_signing_replaces_only_the_signed_part(built: Bundle) -> None:
    before = built.path.read_bytes()
    once = bundle.write_signed(built, "team-nav", b'{"one":1}')
    assert once.signed is not None
    assert (once.signed.role, once.signed.raw) == ("team-nav", b'{"one":1}')
    twice = bundle.write_signed(once, "team-other", b'{"two":22}')
    assert twice.signed is not None
    assert twice.signed.role == "team-other"
    assert bundle.write_signed(twice, "", None).path.read_bytes() == before
    assert list(built.path.parent.glob(".*")) == [], "no temporary file stays"


def approved(path: Path, team: Team) -> dict[str, bytes] | None:
    """What the file would publish with the signatures of two people; None where it would not."""
    opened = verifying.verify(bundle.read(path)).bundle
    if opened.signed is None or opened.signed.role != ROLE:
        return None
    step = signing.prepare(team.view(), opened.manifest, carried=opened.signed.raw, waiting=None, yanked=(), now=NOW)
    return content_of(path) if step.proposal.complete else None


def test_every_single_changed_byte_is_noticed(built: Bundle) -> None:
    """Sampled. A few bits mean nothing (in a zstd frame's header); then exactly what was signed is published."""
    team = Team()
    step = signing.prepare(team.view(), built.manifest, carried=None, waiting=None, yanked=(), now=NOW)
    for person in (team.alice, team.bob):
        proposal = signing.sign(team.view(), step, built.manifest, person.signer, yanked=(), now=NOW)
        step = msgspec.structs.replace(step, proposal=proposal)
    bundle.write_signed(built, ROLE, step.raw)
    raw = built.path.read_bytes()
    whole = approved(built.path, team)
    assert whole is not None
    places = sorted({*range(1100), *CHANCE.sample(range(len(raw)), 900), *range(len(raw) - 1100, len(raw))})
    harmless = 0
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << CHANCE.randrange(8)
        built.path.write_bytes(changed)
        try:
            found = approved(built.path, team)
        except (HubError, SchemaError):
            continue
        if found is not None:
            harmless += 1
            assert found | {"signed": b""} == whole | {"signed": b""}, f"byte {place}: something else is published"
    assert harmless <= 5


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 1024, -512, -1])
def test_a_file_that_was_cut_off_is_refused(built: Bundle, keep: int) -> None:
    raw = built.path.read_bytes()
    built.path.write_bytes(raw[:keep])
    with pytest.raises(BundleRefused):
        bundle.read(built.path)


def test_something_behind_the_end_is_refused(built: Bundle) -> None:
    with built.path.open("ab") as file:
        file.write(bytes(512))
    with pytest.raises(BundleRefused) as refused:
        bundle.read(built.path)
    assert refused.value.code == "bundle_invalid"


def write_entries(path: Path, entries: list[tuple[bytes, bytes]]) -> Path:
    """A tar of raw headers and contents."""
    body = b"".join(head + content + bytes(-len(content) % 512) for head, content in entries)
    path.write_bytes(body + bytes(1024))
    return path


def entry(name: str, content: bytes) -> tuple[bytes, bytes]:
    return header(Entry(name, "file", size=len(content))), content


def parts(payload_raw: bytes = b"hello", **fields: object) -> tuple[ReleaseManifest, list[tuple[bytes, bytes]]]:
    sha256 = hashlib.sha256(payload_raw).hexdigest()
    values = {"components": (Component("app", "file", sha256, len(payload_raw)),)} | fields
    manifest = ReleaseManifest(product="nav", version="1.0.0", release_counter=1, **values)  # type: ignore[arg-type]
    compressed = zstandard.ZstdCompressor().compress(payload_raw)
    return manifest, [
        entry(f"payloads/{sha256}.zst", compressed),
        entry("release.json", encode_manifest(manifest)),
    ]


def test_a_file_made_by_hand_in_the_right_form_is_read(tmp_path: Path) -> None:
    manifest, entries = parts()
    assert verifying.verify(bundle.read(write_entries(tmp_path / "x.sdx", entries))).bundle.manifest == manifest


def tar_entry(name: str, kind: bytes, **fields: object) -> tuple[bytes, bytes]:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.PAX_FORMAT), b""


@pytest.mark.parametrize(
    ("added", "code"),
    [
        (entry("../../etc/cron.d/x", b"x"), "bundle_bad_entry"),
        (entry("/etc/passwd", b"x"), "bundle_bad_entry"),
        (entry("payloads/short.zst", b"x"), "bundle_bad_entry"),
        (entry("README", b"x"), "bundle_bad_entry"),
        (tar_entry("signed/team-x.json", tarfile.SYMTYPE, linkname="/etc/passwd"), "bundle_bad_entry"),
        (tar_entry("signed/team-x.json", tarfile.LNKTYPE, linkname="release.json"), "bundle_bad_entry"),
        (tar_entry("signed/team-x.json", tarfile.CHRTYPE), "bundle_bad_entry"),
        (tar_entry("z" * 200, tarfile.REGTYPE), "bundle_bad_entry"),
        (tar_entry("signed/team-x.json", tarfile.REGTYPE, mtime=5), "bundle_bad_entry"),
        (entry("documents/" + "0" * 64, b"x"), "bundle_bad_entry"),
    ],
)
def test_an_entry_that_does_not_belong_there_is_refused(tmp_path: Path, added: tuple[bytes, bytes], code: str) -> None:
    _, entries = parts()
    path = write_entries(tmp_path / "x.sdx", [*entries, added])
    with pytest.raises(BundleRefused) as refused:
        bundle.read(path)
    assert refused.value.code == code
    assert sorted(tmp_path.iterdir()) == [path], "nothing was unpacked"


def test_an_entry_twice_is_refused(tmp_path: Path) -> None:
    _, entries = parts()
    with pytest.raises(BundleRefused) as refused:
        bundle.read(write_entries(tmp_path / "x.sdx", [entries[0], *entries]))
    assert refused.value.code == "bundle_bad_entry"


@pytest.mark.parametrize(
    ("name", "size", "code"),
    [
        ("release.json", 256 * 1024 + 1, "metadata_too_large"),
        ("signed/team-nav.json", 100 * 1024**2, "metadata_too_large"),
        ("payloads/" + "0" * 64 + ".zst", 8 * 1024**3 - 1, "bundle_invalid"),
    ],
)
def test_a_size_beyond_the_bound_is_refused_before_it_is_read(tmp_path: Path, name: str, size: int, code: str) -> None:
    path = tmp_path / "x.sdx"
    path.write_bytes(header(Entry(name, "file", size=size)) + bytes(4096))
    with pytest.raises(BundleRefused) as refused:
        bundle.read(path)
    assert refused.value.code == code


def test_a_missing_and_a_surplus_payload_are_refused(tmp_path: Path) -> None:
    _, entries = parts()
    surplus = entry("payloads/" + "f" * 64 + ".zst", b"x")
    for wrong in ([entries[1]], [entries[0], surplus, entries[1]]):
        with pytest.raises(BundleRefused) as refused:
            bundle.read(write_entries(tmp_path / "x.sdx", wrong))
        assert refused.value.code == "bundle_incomplete"


def test_a_manifest_in_another_form_is_refused(tmp_path: Path) -> None:
    manifest, entries = parts()
    spaced = encode_manifest(manifest).replace(b":", b": ", 1)
    with pytest.raises(BundleRefused) as refused:
        bundle.read(write_entries(tmp_path / "x.sdx", [entries[0], entry("release.json", spaced)]))
    assert refused.value.code == "bundle_invalid"


def refused_content(tmp_path: Path, raw: bytes, stored: bytes, kind: str = "file", length: int | None = None) -> str:
    sha256 = hashlib.sha256(raw).hexdigest()
    component = Component("app", kind, sha256, len(raw) if length is None else length)
    _, entries = parts(components=(component,))
    path = write_entries(tmp_path / "x.sdx", [entry(f"payloads/{sha256}.zst", stored), entries[1]])
    opened = bundle.read(path)
    with pytest.raises(BundleRefused) as refused:
        verifying.verify(opened)
    return refused.value.code


def test_hostile_content_is_refused(tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor().compress
    assert refused_content(tmp_path, b"good", compress(b"evil")) == "payload_digest_mismatch"
    assert refused_content(tmp_path, b"good", compress(b"goo")) == "payload_digest_mismatch"
    assert refused_content(tmp_path, b"good", b"no zstd at all") == "bundle_invalid"
    assert refused_content(tmp_path, b"good", compress(b"good") + b"hidden behind the frame") == "bundle_invalid"
    bomb = compress(bytes(50 * 1024**2))
    assert len(bomb) < 10_000
    assert refused_content(tmp_path, b"good", bomb) == "decompression_bomb"
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    ).compressobj()
    huge_window = wide.compress(b"good") + wide.flush()
    assert refused_content(tmp_path, b"good", huge_window) == "bundle_invalid"


def test_a_folder_in_another_form_than_the_canonical_one_is_refused(tmp_path: Path) -> None:
    raw = canonical_tar({"a": b"1"})
    compress = zstandard.ZstdCompressor().compress
    bad = raw + bytes(10_240)
    assert refused_content(tmp_path, bad, compress(bad), "directory") == "archive_not_canonical"
    assert refused_content(tmp_path, b"hello", compress(b"hello"), "directory") == "archive_not_canonical"


def test_a_wrong_document_is_refused(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"real").hexdigest()
    _, entries = parts(documents=(Document("doc", sha256, 4),))
    path = write_entries(tmp_path / "x.sdx", [entry(f"documents/{sha256}", b"fake"), *entries])
    with pytest.raises(BundleRefused) as refused:
        verifying.verify(bundle.read(path))
    assert refused.value.code == "payload_digest_mismatch"

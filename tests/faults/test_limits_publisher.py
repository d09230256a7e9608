"""The publisher's `sdx` command builds, verifies and publishes nothing that is too much. See test_limits_hub.py."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from firmware_schemas.release import Component, ReleaseManifest
from sdx_hub.publishing import bundle

SDX = str(Path(sys.executable).parent / "sdx")
MB = 1000 * 1000
LONG = "n" * 65536


def sdx(*arguments: str) -> tuple[int, dict[str, Any]]:
    outcome = subprocess.run([SDX, *arguments, "--json"], capture_output=True, text=True, check=False)
    assert "Traceback" not in outcome.stderr, outcome.stderr
    return outcome.returncode, json.loads(outcome.stdout or outcome.stderr)


def hostile_tar(path: Path, name: str, link: str = "") -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(name)
        if link:
            entry.type, entry.linkname = tarfile.SYMTYPE, link
        else:
            entry.size = 5
        archive.addfile(entry, io.BytesIO(b"owned"))
    return path


@pytest.mark.parametrize(
    ("code", "name", "link"),
    [
        ("archive_climbs", "../../owned", ""),
        ("archive_climbs", "/tmp/owned", ""),
        ("archive_link_escapes", "door", "../../../etc"),
        ("archive_link_escapes", "door", "/etc/passwd"),
        ("archive_name_too_long", LONG, ""),
        ("archive_name_too_long", "door", LONG),
    ],
)
def test_publisher_builds_no_hostile_archive(tmp_path: Path, code: str, name: str, link: str) -> None:
    source = hostile_tar(tmp_path / "source.tar", name, link)
    target = tmp_path / "release.sdx"
    parts = ["--component", f"app=directory:{source}", "--product", "p", "--version", "1.0.0", "-o", str(target)]
    status, said = sdx("release", "build", *parts)
    assert (status, said["error"]["code"]) == (1, code), said
    assert not target.exists()


def test_publisher_refuses_a_long_product_name(tmp_path: Path) -> None:
    (tmp_path / "app").write_text("x")
    target = str(tmp_path / "r.sdx")
    status, said = sdx("release", "build", str(tmp_path / "app"), "--product", LONG, "--version", "1.0.0", "-o", target)
    assert (status, said["error"]["code"]) == (2, "invalid_name"), said
    assert len(said["error"]["message"]) < 1000, "a message does not repeat 64 KB"


def forged(folder: Path, packed: bytes, length: int) -> Path:
    """A .sdx file whose manifest is honest about nothing."""
    digest = hashlib.sha256(b"x" * length).hexdigest()
    (folder / "packed").write_bytes(packed)
    part = Component("app", "file", digest, length)
    manifest = ReleaseManifest(product="p", version="1.0.0", release_counter=1000000, components=(part,))
    bundle.write(folder / "forged.sdx", manifest, {digest: folder / "packed"}, {})
    return folder / "forged.sdx"


def bomb(unpacked: int) -> bytes:
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    chunk = bytes(1 << 22)
    parts = [compressor.compress(chunk) for _ in range(unpacked // len(chunk))]
    return b"".join(parts) + compressor.flush()


def test_publisher_stops_a_compression_bomb(tmp_path: Path) -> None:
    status, said = sdx("release", "verify", str(forged(tmp_path, bomb(1 << 30), 1000)))
    assert (status, said["error"]["code"]) == (5, "decompression_bomb"), said


def test_publisher_reads_no_metadata_of_100_mb(tmp_path: Path) -> None:
    file = forged(tmp_path, zstandard.compress(b"x" * 1000), 1000)
    opened = bundle.read(file)
    raw = file.read_bytes()
    with file.open("wb") as again:
        again.write(raw[: -2 * 512])
        info = tarfile.TarInfo("signed/team-nav.json")
        info.size = 100 * MB - 100 * MB % 512
        info.uid = info.gid = info.mtime = 0
        again.write(info.tobuf(tarfile.PAX_FORMAT))
        again.seek(info.size, io.SEEK_CUR)
        again.write(bytes(1024))
    assert opened.signed is None
    status, said = sdx("release", "verify", str(file))
    assert (status, said["error"]["code"]) == (5, "metadata_too_large"), said

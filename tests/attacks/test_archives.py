"""Hostile archives that two people signed: signatures do not make a path safe."""

import io
import tarfile
import time
from collections.abc import Callable

import pytest

from tests.attacks.conftest import Scene
from tests.support.publisher import Payload


def tar(fill: Callable[[tarfile.TarFile], None]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        fill(archive)
    return buffer.getvalue()


def add(archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, 0o644
    content = b"owned" if kind == tarfile.REGTYPE else b""
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def write_through_a_link(archive: tarfile.TarFile) -> None:
    add(archive, "door", tarfile.SYMTYPE, "../../../..")
    add(archive, "door/owned")


HOSTILE: dict[str, tuple[str, Callable[[tarfile.TarFile], None]]] = {
    "a path that climbs": ("archive_climbs", lambda t: add(t, "../../owned")),
    "a climb in the middle": ("archive_climbs", lambda t: add(t, "a/../../../owned")),
    "an absolute path": ("archive_climbs", lambda t: add(t, "/tmp/owned")),
    "a symlink out of the tar": ("archive_link_escapes", lambda t: add(t, "door", tarfile.SYMTYPE, "../../../..")),
    "an absolute symlink": ("archive_link_escapes", lambda t: add(t, "door", tarfile.SYMTYPE, "/etc/passwd")),
    "a write through a symlink": ("archive_link_escapes", write_through_a_link),
    "a name of 64 KB": ("archive_name_too_long", lambda t: add(t, "n" * 65536)),
    "a hard link": ("archive_bad_entry", lambda t: add(t, "hard", tarfile.LNKTYPE, "/etc/passwd")),
    "a device": ("archive_bad_entry", lambda t: add(t, "null", tarfile.CHRTYPE)),
    "a fifo": ("archive_bad_entry", lambda t: add(t, "pipe", tarfile.FIFOTYPE)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive(scene: Scene, name: str) -> None:
    code, fill = HOSTILE[name]
    product = f"hostile-{list(HOSTILE).index(name)}"
    payload = Payload("hostile", tar(fill), kind="directory")
    scene.fleet.publisher.publish(product, "1.0.0", [payload])
    scene.fleet.publisher.assign(f"{product}@1.0.0", scene.craft.device_id)
    before_s = time.time()
    scene.assert_refused(code)
    assert not [path for path in scene.craft.state.parent.rglob("owned") if path.stat().st_mtime >= before_s]


def test_unknown_component_type(scene: Scene) -> None:
    scene.fleet.publisher.publish("odd", "1.0.0", [Payload("odd", b"x", kind="warp-drive")])
    scene.fleet.publisher.assign("odd@1.0.0", scene.craft.device_id)
    scene.assert_refused("component_unknown_type")

"""The disk of a hub's folder of payloads is full, for real: a small file system in memory that only this hub sees."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.traffic import Acknowledged, Polling, Reporting
from tests.support.fleet import Fleet, start_fleet

SIZE_BYTES = 12 * 1024**2
LEFT_BYTES = 1024**2
_MOUNT = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
_NAMESPACES = (("unshare", "--user", "--map-root-user", "--mount"), ("unshare", "--mount"))
"""A mount of one's own needs no root where users may have namespaces, and no namespace of users where one is root."""


def on_small_disk(folder: Path) -> tuple[str, ...]:
    """What to put before a command so that it finds a small, empty file system at `folder`."""
    for namespace in _NAMESPACES:
        wrapper = (*namespace, "sh", "-c", _MOUNT, "sh", str(SIZE_BYTES), str(folder))
        if subprocess.run([*wrapper, "true"], check=False, capture_output=True).returncode == 0:
            return wrapper
    pytest.skip("tmpfs cannot be mounted here")


@contextmanager
def full(fleet: Fleet, folder: Path) -> Iterator[None]:
    """Fill the disk up to a little, from outside, as another program would."""
    ballast = Path(f"/proc/{fleet.hub.pid}/root{folder}") / "ballast"
    ballast.write_bytes(bytes(SIZE_BYTES - LEFT_BYTES))
    try:
        yield
    finally:
        ballast.unlink()


@pytest.mark.parametrize("where", ["uploads", "blobs"])
def test_a_full_disk_of_payloads(tmp_path: Path, where: str) -> None:
    """Uploads are refused and told why, craft notice nothing, and an upload goes on when there is room."""
    content = os.urandom(2 * LEFT_BYTES)
    half = len(content) // 2
    order = {"sha256": hashlib.sha256(content).hexdigest(), "length": len(content), "decoded_length": len(content)}
    with start_fleet(tmp_path / "fleet") as fleet:
        folder = fleet.hub.data / where
        folder.mkdir(exist_ok=True)
        wrapper = on_small_disk(folder)
        fleet.hub.stop()
        fleet.hub.wrapper = wrapper
        fleet.restart_hub()
        craft = fleet.new_craft(tmp_path / "craft", fleet.url)
        yes = Acknowledged()
        devices = [Polling(fleet, craft, yes, 1), Reporting(fleet, craft, yes, 1, fleet.device_key(craft))]
        for one in devices:
            one.start()
        with fleet.client() as client:
            path = f"/api/v1/uploads/{client.post('/api/v1/uploads', json=order).raise_for_status().json()['id']}"
            client.patch(path, content=content[:half], headers={"upload-offset": "0"}).raise_for_status()
            with full(fleet, folder):
                refused = client.patch(path, content=content[half:], headers={"upload-offset": str(half)})
                assert (refused.status_code, refused.json()["code"]) == (503, "storage_full")
                assert "make room" in refused.json()["detail"]
            offset = client.get(path).raise_for_status().json()["offset"]
            assert offset >= half, "it was acknowledged"
            done = client.patch(path, content=content[offset:], headers={"upload-offset": str(offset)})
            assert done.raise_for_status().json()["complete"]
            assert client.get(f"/blobs/{order['sha256']}").content == content
        for one in devices:
            one.stop()
            one.join(60)
            assert one.surprise is None, repr(one.surprise)
            assert (one.lost, dict(one.turned_away)) == (None, {})
            assert one.done > 0

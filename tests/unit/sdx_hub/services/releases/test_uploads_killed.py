"""An upload whose hub is killed (SIGKILL) again and again: what was acknowledged is there, and it comes to its end."""

import hashlib
import os
import random
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sdx_hub.adapters.blobs import LocalBlobs

KILLS = 12
SIZE = 12 * 1024 * 1024


class Killed:
    """One life of the process, and what it said before it ended."""

    def __init__(self, folder: Path, lives_s: float | None) -> None:
        script = Path(__file__).with_name("upload_process.py")
        process = subprocess.Popen([sys.executable, str(script), str(folder)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline().split()
        assert first[:1] == ["begun"]
        self.existed, self.began_at = first[1] == "True", int(first[2])
        timer = threading.Timer(lives_s, process.kill) if lives_s is not None else None
        if timer:
            timer.start()
        lines = process.stdout.read().splitlines()
        process.wait()
        process.stdout.close()
        if timer:
            timer.cancel()
        self.acknowledged = max((int(line.split()[1]) for line in lines if line.startswith("offset ")), default=0)
        self.complete = self.existed or "complete" in lines


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_upload_whose_hub_is_killed_again_and_again(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    raw = os.urandom(SIZE)
    (tmp_path / "payload").write_bytes(raw)
    acknowledged = 0
    for _ in range(KILLS):
        life = Killed(tmp_path, moments.uniform(0, 0.5))
        assert life.existed or life.began_at >= acknowledged
        acknowledged = max(life.acknowledged, life.began_at)
        if life.complete:
            break
    last = Killed(tmp_path, None)
    assert last.complete
    assert last.existed or last.began_at >= acknowledged
    blobs = LocalBlobs(tmp_path / "blobs")
    sha256 = hashlib.sha256(raw).hexdigest()
    assert b"".join([piece async for piece in blobs.read(sha256, "identity", 0, SIZE)]) == raw
    assert await blobs.stat(sha256, "zstd")

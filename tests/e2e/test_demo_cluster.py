"""`sdx demo cluster up`, as `make cluster` runs it."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.hub import SDX

DEVICES = 2


def begin(folder: Path) -> "subprocess.Popen[str]":
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
    command = [SDX, "demo", "cluster", "up", "--headless", "--devices", str(DEVICES), "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean)


def left_behind(folder: Path) -> list[list[str]]:
    """Processes that name the folder in their command line: each of the cluster's does."""
    found = []
    for each in psutil.process_iter(["cmdline"]):
        command = each.info["cmdline"] or []
        if any(str(folder) in part for part in command):
            found.append(command)
    return found


@pytest.mark.slow
def test_everything_arrives_although_a_replica_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    process = begin(folder)
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr
    summary = json.loads(stdout.splitlines()[-1])
    counts = {name: summary[name] for name in ("devices", "installed", "updated", "finished")}
    assert counts == dict.fromkeys(counts, DEVICES)
    assert summary["rollout"] == "finished"
    assert 0 < summary["upload_resumed_at"] < summary["upload_at_kill"]
    assert 0 < summary["updating_at_kill"] <= DEVICES
    for number in range(1, DEVICES + 1):
        (current,) = (folder / "craft" / f"{number:02}" / "slots").glob("server*/current")
        assert summary["running"] == f"autopilot@{(current / 'VERSION').read_text().strip()}"
        firmware = (current / "firmware").read_bytes()
        assert firmware == (folder / "payloads" / "2.0.0" / "firmware").read_bytes()
    assert left_behind(folder) == []
    assert not (folder / "running.json").exists()


@pytest.mark.slow
def test_nothing_outlives_a_cluster_whose_main_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    process = begin(folder)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "craft enrolled" in line)
    assert line
    servers = left_behind(folder)
    for name in ("postgres", "weed", "nginx", "serve", "sdx-agent"):
        assert any(name in part for command in servers for part in command), f"{name} runs: {servers}"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until = time.monotonic() + 60
    while left := left_behind(folder):
        assert time.monotonic() < until, left
        time.sleep(0.1)

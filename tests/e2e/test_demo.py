"""`sdx demo up`: the main job on real software, as `make demo` runs it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.hub import SDX

DEVICES = 5


def demo(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")} | environment
    return subprocess.run(
        [SDX, "demo", *arguments, "--folder", str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        env=clean,
    )


@pytest.mark.slow
def test_demo_updates_every_craft_and_the_broken_release_stops_itself(tmp_path: Path) -> None:
    ended = demo(tmp_path / "demo", "up", "--headless", "--devices", str(DEVICES))
    if "registry_unreachable" in ended.stderr:
        pytest.skip("skipped: package index not reachable")
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    counts = {name: summary[name] for name in ("devices", "installed_first", "updated")}
    assert counts == {"devices": DEVICES, "installed_first": DEVICES, "updated": DEVICES}
    assert (summary["halted"], summary["stopped_in_wave"]) == (True, 1)
    # The first wave is one craft of each board; the broken build is for one of them.
    names = ("hurt", "rolled_back", "reverted", "spared")
    assert {name: summary[name] for name in names} == {
        "hurt": 1,
        "rolled_back": 1,
        "reverted": 2,
        "spared": DEVICES - 2,
    }
    assert summary["decisions_replayed"] >= 7
    for number in range(1, DEVICES + 1):
        slots = tmp_path / "demo" / "craft" / f"{number:02}" / "slots"
        (current,) = slots.glob("server*/current")
        version = (current / "VERSION").read_text().strip()
        assert summary["running"] == f"mavsdk@{version}"
        program = current / "mavsdk_server"
        assert program.stat().st_size > 10_000_000, "the real program"
    assert not (tmp_path / "demo" / "running.json").exists(), "a headless demo leaves nothing running"
    assert demo(tmp_path / "demo", "down").returncode == 3


def test_demo_without_a_package_index_says_what_to_do(tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    nowhere |= {"PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1"}
    ended = demo(tmp_path / "demo", "up", "--headless", **nowhere)
    assert ended.returncode == 1
    assert "registry_unreachable" in ended.stderr
    assert "PIP_INDEX_URL" in ended.stderr
    assert str(tmp_path / "demo" / "wheels") in ended.stderr

"""A real agent tells a real hub every step of an update, and how much the craft was used."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.craft import Craft
from tests.support.fleet import Fleet, start_fleet
from tests.support.publisher import Payload


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("telling")) as running:
        running.publisher.publish("app", "1.0.0", [Payload("params", b"v1")])
        yield running


def told(fleet: Fleet, craft: Craft) -> tuple[Any, list[tuple[str, str]]]:
    """Use as the hub shows it, and the steps in its timeline, the first one first."""
    with fleet.client() as client:
        shown = client.get(f"/api/v1/devices/{craft.device_id}").json()
        events = client.get(f"/api/v1/devices/{craft.device_id}/timeline?limit=100").json()["items"]
    steps = [event["detail"] for event in reversed(events) if event["kind"] == "progress"]
    return shown["usage"], [(step["state"], step["code"]) for step in steps]


def test_steps_and_use(fleet: Fleet, tmp_path: Path) -> None:
    craft = fleet.new_craft(tmp_path / "craft", fleet.url)
    flown, gate = tmp_path / "flown.json", tmp_path / "gate"
    flown.write_text(json.dumps({"flights": 3, "running_s": 600}))
    gate.write_text("ok")
    craft.settings(f'[gate]\nkind = "file"\npath = "{gate}"\n[usage]\nfile = "{flown}"\n')
    fleet.publisher.assign("app@1.0.0", craft.device_id)
    assert craft.run_once().code == 0
    usage, steps = told(fleet, craft)
    assert (usage["flights"], usage["running_s"]) == (3, 600)
    assert steps == [("DOWNLOADING", ""), ("VERIFIED", ""), ("INSTALLING", ""), ("TRIAL", "")]
    flown.write_text("{")
    assert craft.run_once().code == 0
    assert craft.status()["usage"]["error"]["code"] == "usage_unreadable"
    assert told(fleet, craft)[0] == usage

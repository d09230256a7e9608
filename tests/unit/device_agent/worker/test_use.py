"""The worker reports how much the craft was used: before a success, and otherwise now and then."""

import errno
import json
from pathlib import Path

import msgspec
import pytest

from device_agent.ports.storage import SECRET_MODE, DiskStorage
from firmware_schemas.device_api import UsageReport
from tests.support.static_hub import StaticHub
from tests.unit.device_agent.worker.conftest import Craft, payloads


@pytest.fixture
def flown(craft: Craft, tmp_path: Path) -> Path:
    file = tmp_path / "flown.json"
    craft.settings(f'[usage]\nfile = "{file}"\n')
    return file


def says(file: Path, flights: int, running_s: int) -> None:
    file.write_text(json.dumps({"flights": flights, "running_s": running_s}))


def used(hub: StaticHub) -> list[tuple[int, int]]:
    bodies = [report.body for report in hub.reports]
    return [(body.flights, body.running_s) for body in bodies if isinstance(body, UsageReport)]


def test_the_use_until_a_commit_is_reported_before_the_success(hub: StaticHub, craft: Craft, flown: Path) -> None:
    says(flown, 7, 5000)
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 0
    kinds = [kind for kind in hub.kinds() if kind != "progress"]
    assert kinds == ["usage", "result", "inventory"]
    assert used(hub) == [(7, 5000)]


def test_a_failure_says_nothing_of_use(hub: StaticHub, craft: Craft, flown: Path) -> None:
    says(flown, 7, 5000)
    craft.commands.answers["./check"] = lambda: craft.version() != "2"
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 1
    assert used(hub) == []


def test_without_news_an_hour_later_nothing_is_said(hub: StaticHub, craft: Craft, flown: Path) -> None:
    says(flown, 7, 5000)
    craft.clock.sleep(3600)
    craft.run_once()
    craft.clock.sleep(3600)
    craft.run_once()
    assert used(hub) == [(7, 5000)]
    says(flown, 8, 6000)
    craft.run_once()
    assert used(hub) == [(7, 5000), (8, 6000)]
    says(flown, 9, 7000)
    craft.run_once()
    assert used(hub) == [(7, 5000), (8, 6000)], "not before the interval is over"


def test_garbage_in_the_file_is_said_in_the_status_and_holds_nothing_up(
    hub: StaticHub, craft: Craft, flown: Path
) -> None:
    flown.write_text("{")
    hub.assign(hub.publish("app", 2, payloads(2)))
    assert craft.run_once() == 0
    assert craft.version() == "2"
    assert used(hub) == []
    assert craft.status()["usage"]["error"]["code"] == "usage_unreadable"
    says(flown, 1, 60)
    assert craft.status()["usage"] == {"flights": 1, "running_s": 60, "error": None}


def test_without_a_file_the_time_that_the_craft_was_on_counts(hub: StaticHub, craft: Craft) -> None:
    craft.clock.sleep(4000)
    craft.run_once()
    craft.clock.reboot()
    craft.clock.sleep(4000)
    craft.run_once()
    assert used(hub) == [(0, 4000), (0, 8005)]


def test_a_medium_that_takes_no_report_of_use_holds_nothing_up(hub: StaticHub, craft: Craft, flown: Path) -> None:
    says(flown, 7, 5000)
    craft.clock.sleep(3600)
    hub.assign(hub.publish("app", 2, payloads(2)))

    class Full(DiskStorage):
        def write_file(self, path: Path, data: bytes, mode: int = SECRET_MODE) -> None:
            if path.name.startswith(("counter", "running", "usage")) and craft.state == "IDLE":
                raise OSError(errno.ENOSPC, "No space left on device")
            super().write_file(path, data, mode)

    assert craft.run_once(storage=Full()) == 0
    assert craft.version() == "2"
    assert used(hub) == [(7, 5000)], "by the time of the success there is room again"


def test_use_costs_a_report_and_no_state(hub: StaticHub, craft: Craft, flown: Path) -> None:
    """It goes out patiently, and the journal knows nothing of it."""
    says(flown, 7, 5000)
    before = craft.journal
    craft.clock.sleep(3600)
    craft.work(restarted=False)
    waiting = [path.name for path in craft.home.outbox.iterdir() if path.name != "counter"]
    assert len(waiting) == 1
    assert waiting[0].endswith(".patient.json")
    assert msgspec.to_builtins(craft.journal) == msgspec.to_builtins(before)

"""How much the craft was used: a file that need not be trusted, or time that survives boots and pulled batteries."""

import json
import os
from pathlib import Path

import pytest

from device_agent.core.errors import SettingsError
from device_agent.ports.home import Home
from device_agent.ports.outbox import Outbox
from device_agent.ports.storage import DiskStorage
from device_agent.ports.usage import LONGEST_SAVE_S, RunningTime, Totals, Usage, UsageUnreadable
from device_agent.settings import UsageSettings, decode_settings
from tests.support.fake_clock import FakeClock


def usage(folder: Path, clock: FakeClock, file: str = "", interval_s: float = 3600.0) -> Usage:
    return Usage(Home(folder), UsageSettings(file, interval_s), DiskStorage(), clock)


def running(folder: Path, clock: FakeClock) -> RunningTime:
    return RunningTime(folder / "running.json", DiskStorage(), clock)


class Flown:
    """The file of a flight stack."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.says(3, 600)

    def says(self, flights: int, running_s: int) -> None:
        self.path.write_text(json.dumps({"flights": flights, "running_s": running_s, "longest_s": 99}))


@pytest.fixture
def flown(tmp_path: Path) -> Flown:
    return Flown(tmp_path / "flown.json")


# -- the flight stack's file -----------------------------------------------------------------------------------------


def test_the_file_says_what_was_flown(tmp_path: Path, flown: Flown) -> None:
    assert usage(tmp_path, FakeClock(), str(flown.path)).totals() == Totals(3, 600)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 4000,
        b'{"flights": 1}',
        b'{"flights": -1, "running_s": 0}',
        b'{"flights": 1.5, "running_s": 0}',
        b'{"flights": "1", "running_s": 0}',
        b'{"flights": true, "running_s": 0}',
        b'{"flights": 1, "running_s": 1e99}',
        b'{"flights": 10000001, "running_s": 0}',
        b'{"flights": 1, "running_s": 1}' + b" " * 5000,
    ],
)
def test_garbage_is_named_and_not_reported(tmp_path: Path, garbage: bytes) -> None:
    file = tmp_path / "flown.json"
    file.write_bytes(garbage)
    used = usage(tmp_path, FakeClock(), str(file))
    with pytest.raises(UsageUnreadable) as caught:
        used.totals()
    assert str(file) in str(caught.value)
    assert used.news() is None


def test_a_link_is_not_followed(tmp_path: Path, flown: Flown) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(flown.path)
    with pytest.raises(UsageUnreadable, match="cannot be read"):
        usage(tmp_path, FakeClock(), str(link)).totals()


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "missing"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "flown.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    with pytest.raises(UsageUnreadable):
        usage(tmp_path, FakeClock(), str(path)).totals()


def test_the_file_must_be_named_absolutely() -> None:
    raw = b'hub = "http://h"\nserial = "S"\nhardware = "x"\n[usage]\nfile = "flown.json"\n'
    with pytest.raises(SettingsError, match="absolute"):
        decode_settings(raw)


# -- time that the craft was on --------------------------------------------------------------------------------------


def test_what_was_before_the_first_start_does_not_count(tmp_path: Path) -> None:
    clock = FakeClock()
    counted = running(tmp_path, clock)
    assert counted.total_s() == 0
    counted.save_if_due()
    clock.sleep(500)
    assert counted.total_s() == 500
    assert running(tmp_path, clock).total_s() == 500, "also for another process of the same boot"


def test_boots_add_up(tmp_path: Path) -> None:
    clock = FakeClock()
    first = running(tmp_path, clock)
    first.save()
    clock.sleep(500)
    first.save()
    clock.reboot()
    second = running(tmp_path, clock)
    assert second.total_s() == 505, "and the seconds of this boot"
    clock.sleep(100)
    second.save_if_due()
    clock.reboot()
    assert running(tmp_path, clock).total_s() == 610


def test_a_pulled_battery_costs_half_of_the_boot_at_most_and_a_long_boot_few_writes(tmp_path: Path) -> None:
    clock = FakeClock()
    running(tmp_path, clock).save()
    clock.reboot()
    counted, writes = running(tmp_path, clock), 0
    for second in range(5, 86_400):
        clock.now_s = float(second)
        before = counted.due_in_s()
        counted.save_if_due()
        writes += before <= 0
        if second % 97 == 0 and second >= 60:
            lost_s = counted.total_s() - running_after_a_cut(tmp_path, clock)
            assert lost_s <= min(second / 2, LONGEST_SAVE_S)
    assert writes <= 101


def running_after_a_cut(folder: Path, clock: FakeClock) -> int:
    """Seconds that the next boot would know of."""
    return running(folder, FakeClock(0.0, boot=clock.boot + "-next")).total_s()


def test_a_count_that_was_lost_goes_on_from_what_was_reported(tmp_path: Path) -> None:
    clock = FakeClock()
    used = usage(tmp_path, clock)
    used.running.save()
    clock.sleep(5000)
    used.remember(used.totals(), 1)
    (tmp_path / "running.json").write_bytes(b"{")
    clock.reboot()
    assert usage(tmp_path, clock).totals().running_s == 5000


# -- when the hub hears of it ----------------------------------------------------------------------------------------


def test_the_first_totals_are_reported_at_once_and_then_at_most_in_every_interval(tmp_path: Path, flown: Flown) -> None:
    clock = FakeClock()
    used = usage(tmp_path, clock, str(flown.path))
    used.running.save()
    assert used.news() == Totals(3, 600)
    used.remember(Totals(3, 600), 1)
    flown.says(4, 900)
    clock.sleep(3599)
    assert used.news() is None
    assert used.look_in_s() == 60
    assert used.news(at_once=True) == Totals(4, 900)
    clock.sleep(1)
    assert used.news() == Totals(4, 900)


def test_the_interval_is_time_that_the_craft_was_on(tmp_path: Path, flown: Flown) -> None:
    """Three flights of 25 minutes with a new battery each: the third one reports."""
    clock = FakeClock()
    used = usage(tmp_path, clock, str(flown.path))
    used.running.save()
    used.remember(Totals(3, 600), 1)
    heard = []
    for flight in range(3):
        clock.reboot()
        used = usage(tmp_path, clock, str(flown.path))
        clock.sleep(1500)
        flown.says(4 + flight, 2000 * (flight + 1))
        heard.append(used.news())
        used.running.save()
    assert heard == [None, None, Totals(6, 6000)]


def test_what_does_not_grow_is_no_news(tmp_path: Path, flown: Flown) -> None:
    clock = FakeClock()
    used = usage(tmp_path, clock, str(flown.path), 10.0)
    used.remember(Totals(3, 600), 1)
    clock.sleep(100)
    assert used.news() is None
    assert used.look_in_s() == 10.0
    flown.says(0, 0)
    assert used.news() is None, "a new flight computer"
    flown.says(4, 20)
    assert used.news() == Totals(4, 600), "totals only grow"


def test_a_report_that_still_waits_is_not_followed_by_another(tmp_path: Path, flown: Flown) -> None:
    clock = FakeClock()
    used, outbox = usage(tmp_path, clock, str(flown.path), 10.0), Outbox(Home(tmp_path).outbox, DiskStorage())
    outbox.add(1, b"{}", patient=True)
    used.remember(Totals(3, 600), 1)
    flown.says(4, 900)
    clock.sleep(100)
    assert used.news() is None
    assert used.news(at_once=True) == Totals(4, 900)
    (Home(tmp_path).outbox / "1.patient.json").unlink()
    assert used.news() == Totals(4, 900)

"""Budget, polling, service manager, lock, notes, commands and gate."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from device_agent.core.errors import BudgetExhausted, SettingsError, TransportError
from device_agent.ports.budget import DAY_S, ByteBudget
from device_agent.ports.commands import ProcessCommands
from device_agent.ports.gate import CommandGate, FileGate, NoGate
from device_agent.ports.hub import Answer
from device_agent.ports.lock import locked
from device_agent.ports.notes import (
    PollNote,
    Problem,
    WorkerNote,
    glance,
    read_poll,
    read_worker,
    write_note,
)
from device_agent.ports.polling import Poller
from device_agent.ports.service import ServiceManager
from device_agent.ports.storage import DiskStorage, replace_file, replace_symlink
from tests.support.fake_clock import FakeClock

# -- byte budget -----------------------------------------------------------------------------------------------------


def budget(folder: Path, clock: FakeClock, per_day: int = 1000) -> ByteBudget:
    return ByteBudget(folder / "budget.json", per_day, DiskStorage(), clock)


def test_the_budget_ends_and_says_when_to_come_back(tmp_path: Path) -> None:
    clock = FakeClock()
    counting = budget(tmp_path, clock)
    counting.charge(600)
    clock.sleep(3600)
    with pytest.raises(BudgetExhausted) as caught:
        counting.charge(600)
    assert caught.value.retry_after_s == pytest.approx(DAY_S - 3600)
    assert caught.value.code == "budget_exhausted"


def test_a_restart_does_not_renew_the_budget(tmp_path: Path) -> None:
    clock = FakeClock()
    first = budget(tmp_path, clock)
    first.charge(900)
    first.save()
    clock.reboot()
    with pytest.raises(BudgetExhausted):
        budget(tmp_path, clock).charge(200)


def test_after_a_day_there_is_a_new_budget(tmp_path: Path) -> None:
    clock = FakeClock()
    counting = budget(tmp_path, clock)
    counting.charge(900)
    clock.sleep(DAY_S)
    counting.charge(900)


def test_a_damaged_budget_is_no_reason_to_spend(tmp_path: Path) -> None:
    (tmp_path / "budget.json").write_bytes(b"{")
    with pytest.raises(BudgetExhausted):
        budget(tmp_path, FakeClock()).charge(1)


def test_no_limit_writes_nothing(tmp_path: Path) -> None:
    counting = budget(tmp_path, FakeClock(), 0)
    counting.charge(10**12)
    counting.save()
    assert not list(tmp_path.iterdir())


# -- polling ---------------------------------------------------------------------------------------------------------


class PollHub:
    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked = list(answers), list[dict[str, str]]()

    def exchange(self, _method: str, _path: str, **more: Any) -> Answer:
        self.asked.append(dict(more["headers"]))
        return self.answers[len(self.asked) - 1]

    def stream(self, *_arguments: Any, **_more: Any) -> Any:
        raise AssertionError

    def close(self) -> None:
        return


def answered(**fields: Any) -> Answer:
    headers = {"etag": '"7"', "sdx-poll-interval": "30"}
    return Answer(200, headers, json.dumps({"desired_version": 7, "jitter_s": 5} | fields).encode())


def test_a_poll_remembers_what_it_knows() -> None:
    hub = PollHub(answered(action="d.7"), Answer(304, {"sdx-poll-interval": "60"}, b""))
    poller = Poller(hub)
    first = poller.poll()
    assert first.answer is not None
    assert (first.answer.action, first.interval_s) == ("d.7", 30.0)
    assert poller.next_in_s(30.0, lambda _a, b: b) == 35.0
    assert poller.poll() == (None, 60.0)
    assert hub.asked == [{}, {"if-none-match": '"7"'}]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(304, {}, b""),
        Answer(200, {}, b"<html>"),
        Answer(200, {}, b'{"desired_version":"x"}'),
        answered(action="x" * 200),
        Answer(500, {}, b""),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_of_the_link(answer: Answer) -> None:
    with pytest.raises(TransportError):
        Poller(PollHub(answer)).poll()


@pytest.mark.parametrize(("said", "interval_s"), [("0", 1.0), ("99999999", 86400.0), ("soon", 60.0), ("-5", 60.0)])
def test_the_hub_cannot_park_a_craft_nor_have_it_storm(said: str, interval_s: float) -> None:
    answer = Answer(200, {"sdx-poll-interval": said}, b'{"desired_version":1}')
    assert Poller(PollHub(answer)).poll().interval_s == interval_s


# -- service manager -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [True, False])
def test_the_service_manager_hears_from_us(tmp_path: Path, abstract: bool) -> None:
    name = f"@sdx-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        listener.settimeout(5)
        service = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "2000000"})
        assert service.watchdog_s == 2.0
        service.ready()
        service.alive()
        service.status("two\nlines")
        service.stopping()
        heard = [listener.recv(1000) for _ in range(4)]
    assert heard == [b"READY=1", b"WATCHDOG=1", b"STATUS=two lines", b"STOPPING=1"]


def test_without_a_service_manager_nothing_happens() -> None:
    service = ServiceManager({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"})
    service.ready()
    service.alive()
    assert service.watchdog_s == 0.0, "the watchdog is for another process"
    ServiceManager({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready()


# -- lock and notes --------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_and_let_go(tmp_path: Path) -> None:
    with locked(tmp_path / "x.lock"):
        with pytest.raises(SettingsError) as caught, locked(tmp_path / "x.lock"):
            pass
        assert caught.value.code == "state_busy"
    with locked(tmp_path / "x.lock"):
        pass


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught, locked(tmp_path / "missing" / "x.lock"):
        pass
    assert caught.value.code == "not_enrolled"


def test_notes_survive_and_a_damaged_one_is_an_empty_one(tmp_path: Path) -> None:
    poll, worker = PollNote("d.1", True, Problem("x", "y")), WorkerNote(1.5, 2, None, "closed", "h", "s")
    write_note(DiskStorage(), tmp_path / "poll.json", poll)
    write_note(DiskStorage(), tmp_path / "worker.json", worker)
    assert (read_poll(tmp_path / "poll.json"), read_worker(tmp_path / "worker.json")) == (poll, worker)
    (tmp_path / "poll.json").write_bytes(b'{"action"')
    assert read_poll(tmp_path / "poll.json") == PollNote()


@pytest.mark.parametrize(
    ("journal", "duty"),
    [
        (b"{}", True),
        (b'{"state":{"state":"IDLE"},"finished":["d.1"]}', False),
        (b'{"state":{"state":"TRIAL","plan":{"any":"thing"}},"finished":["d.1"]}', True),
    ],
)
def test_a_glance_at_the_journal_shows_whether_there_is_a_duty(tmp_path: Path, journal: bytes, *, duty: bool) -> None:
    (tmp_path / "journal.json").write_bytes(journal)
    seen = glance(tmp_path / "journal.json")
    assert seen is not None
    assert seen.has_duty("d.1") is duty


def test_a_glance_at_a_damaged_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.json").write_bytes(b"{")
    assert glance(tmp_path / "journal.json") is None


# -- commands and gate -----------------------------------------------------------------------------------------------


def script(folder: Path, text: str, name: str = "check") -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def test_a_command_passes_by_its_status_and_runs_in_its_folder(tmp_path: Path) -> None:
    script(tmp_path, 'test -e check && test -z "$SECRET"')
    os.environ["SECRET"] = "x"
    try:
        assert ProcessCommands().run(("./check",), tmp_path, 10).ok
    finally:
        del os.environ["SECRET"]


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    script(tmp_path, "echo no satellites >&2; exit 3")
    outcome = ProcessCommands().run(("./check",), tmp_path, 10)
    assert not outcome.ok
    assert "status 3" in outcome.detail
    assert "no satellites" in outcome.detail


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    script(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; wait")
    began_s = time.monotonic()
    outcome = ProcessCommands().run(("./check",), tmp_path, 0.5)
    assert not outcome.ok
    assert time.monotonic() - began_s < 10
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    assert not child.exists() or child.read_text().split()[2] == "Z"


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    """A daemon that was started by the check holds its standard error open."""
    script(tmp_path, f"sleep 30 & echo $! > {tmp_path}/pid; exit 0")
    began_s = time.monotonic()
    assert ProcessCommands().run(("./check",), tmp_path, 20).ok
    assert time.monotonic() - began_s < 10
    os.kill(int((tmp_path / "pid").read_text()), 9)


@pytest.mark.parametrize("ends", [True, False])
def test_a_command_that_talks_without_an_end_costs_no_memory(tmp_path: Path, *, ends: bool) -> None:
    import tracemalloc

    script(tmp_path, "head -c 200000000 /dev/zero >&2; exit 4" if ends else "exec cat /dev/zero >&2")
    tracemalloc.start()
    try:
        outcome = ProcessCommands().run(("./check",), tmp_path, 30 if ends else 1)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not outcome.ok
    assert ("status 4" if ends else "did not finish") in outcome.detail
    assert peak < 5_000_000


def test_a_command_cannot_leave_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "slot"
    folder.mkdir()
    script(tmp_path, "exit 0", "outside")
    (folder / "door").symlink_to("../outside")
    for program in ("../outside", "./door"):
        assert not ProcessCommands().run((program,), folder, 10).ok
    assert not ProcessCommands().run(("relative",), None, 10).ok
    assert not ProcessCommands().run(("./missing",), folder, 10).ok


@pytest.mark.parametrize(
    ("said", "is_open"), [("ok", True), (" ok\n", True), ("no", False), ("", False), ("okay", False)]
)
def test_a_file_gate(tmp_path: Path, said: str, *, is_open: bool) -> None:
    (tmp_path / "gate").write_text(said)
    assert FileGate(tmp_path / "gate").ask().is_open is is_open


def test_unknown_counts_as_no(tmp_path: Path) -> None:
    assert not FileGate(tmp_path / "missing").ask().is_open
    assert not FileGate(tmp_path).ask().is_open
    assert not CommandGate(ProcessCommands(), (str(tmp_path / "missing"),), 1).ask().is_open


def test_other_gates(tmp_path: Path) -> None:
    assert NoGate().ask().is_open
    assert CommandGate(ProcessCommands(), (str(script(tmp_path, "exit 0")),), 5).ask().is_open


# -- storage ---------------------------------------------------------------------------------------------------------


class Recorder(DiskStorage):
    """Notes the order of what makes a change durable."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []

    def write_file(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        self.steps.append(("write", path.name))
        super().write_file(path, data, mode)

    def sync_file(self, path: Path) -> None:
        self.steps.append(("sync", path.name))
        super().sync_file(path)

    def rename(self, source: Path, target: Path) -> None:
        self.steps.append(("rename", target.name))
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self.steps.append(("sync", path.name))
        super().sync_folder(path)


def test_a_file_is_replaced_in_the_order_that_survives_a_power_cut(tmp_path: Path) -> None:
    storage = Recorder()
    replace_file(storage, tmp_path / "journal.json", b"x")
    assert storage.steps == [
        ("write", "journal.json.next"),
        ("sync", "journal.json.next"),
        ("rename", "journal.json"),
        ("sync", tmp_path.name),
    ]
    assert (tmp_path / "journal.json").stat().st_mode & 0o777 == 0o600


def test_a_link_is_replaced_without_a_moment_without_one(tmp_path: Path) -> None:
    storage = DiskStorage()
    replace_symlink(storage, tmp_path / "current", "a")
    replace_symlink(storage, tmp_path / "current", "b")
    assert str((tmp_path / "current").readlink()) == "b"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    (tmp_path / "link").symlink_to("victim")
    storage = DiskStorage()
    with pytest.raises(OSError):
        storage.write_file(tmp_path / "link", b"owned")
    with pytest.raises(OSError):
        storage.write_stream(tmp_path / "link", iter([b"owned"]))
    assert (tmp_path / "victim").read_text() == "safe"

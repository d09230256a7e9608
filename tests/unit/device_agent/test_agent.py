"""The polling process as a process: it stays, starts workers, delivers, and ends when asked to."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from device_agent.agent import Agent
from device_agent.core import journal as journals
from device_agent.ports.home import Home
from device_agent.ports.outbox import Outbox
from device_agent.ports.service import ServiceManager
from device_agent.ports.signing import Signer
from device_agent.ports.storage import DiskStorage
from device_agent.ports.usage import Totals, Usage
from device_agent.settings import UsageSettings
from device_agent.status import describe
from firmware_schemas.device_api import ProgressReport, UsageReport
from tests.support.fake_clock import FakeClock
from tests.support.publisher import Payload
from tests.support.static_hub import StaticHub, enrolled, serving

AGENT = str(Path(sys.executable).parent / "sdx-agent")
MOST_RSS_KIB = 30 * 1024


@pytest.fixture
def hub() -> StaticHub:
    return StaticHub()


@pytest.fixture
def url(hub: StaticHub) -> Iterator[str]:
    with serving(hub) as address:
        yield address


@contextmanager
def running(home: Home, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    log = (home.root / "agent.log").open("ab")
    process = subprocess.Popen(
        [AGENT, "run", "--state", str(home.root)], stdout=log, stderr=log, env=os.environ | environment
    )
    log.close()
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def until(condition: Callable[[], Any], within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def polls(hub: StaticHub) -> int:
    return sum(path == "/device/v1/poll" for _method, path in hub.asked)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def journal(home: Home) -> journals.Journal:
    return journals.decode(home.journal.read_bytes()) if home.journal.exists() else journals.Journal()


def version(home: Home) -> str:
    path = home.slots / "params" / "current" / "params"
    return path.read_text() if path.exists() else ""


def test_it_updates_again_and_again_while_it_runs(hub: StaticHub, url: str, tmp_path: Path) -> None:
    home = enrolled(hub, tmp_path / "state", url)
    with running(home):
        actions = []
        for number in (1, 2):
            actions.append(hub.assign(hub.publish("app", number, [Payload("params", b"v%d" % number)])))
            until(lambda: len(hub.ended()) == number)  # noqa: B023 - waited for in the loop
            assert version(home) == f"v{number}"
        assert hub.ended() == [(action, "success", "") for action in actions]


def test_what_it_costs(hub: StaticHub, url: str, tmp_path: Path) -> None:
    """Peak memory of the polling process after an update and 20 polls. (Exact figures: `make bench B=agent`.)"""
    home = enrolled(hub, tmp_path / "state", url)
    hub.assign(hub.publish("app", 1, [Payload("params", os.urandom(1 << 20))]))
    with running(home) as process:
        until(lambda: hub.ended() and polls(hub) >= 20, 90)
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert peak is not None
        assert int(peak[1]) <= MOST_RSS_KIB
        assert children(process.pid) == [], "the worker exits when it has nothing to do"


def test_a_worker_that_is_killed_is_started_again(hub: StaticHub, url: str, tmp_path: Path) -> None:
    settings = '[[health]]\nargv = ["/usr/bin/sleep", "1.5"]\n'
    home = enrolled(hub, tmp_path / "state", url, settings)
    action = hub.assign(hub.publish("app", 1, [Payload("params", b"v1")]))
    with running(home) as process:
        until(lambda: type(journal(home).state).__name__ == "Trial")
        os.kill(children(process.pid)[0], signal.SIGKILL)
        until(hub.ended, 90)
    assert hub.ended() == [(action, "success", "")]


def test_killed_agent_and_worker_come_back_from_the_journal(hub: StaticHub, url: str, tmp_path: Path) -> None:
    settings = '[[health]]\nargv = ["/usr/bin/sleep", "1.5"]\n'
    home = enrolled(hub, tmp_path / "state", url, settings)
    action = hub.assign(hub.publish("app", 1, [Payload("params", b"v1")]))
    with running(home) as process:
        until(lambda: type(journal(home).state).__name__ == "Trial")
        for pid in [*children(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.wait(20)
    hub.down = True  # It wakes without a link: the trial goes on all the same.
    with running(home):
        until(lambda: journal(home).finished)
        assert hub.ended() == []
        hub.down = False
        until(hub.ended, 90)
    assert hub.ended() == [(action, "success", "")]


def test_a_changed_instruction_cancels_a_running_worker(hub: StaticHub, url: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    home = enrolled(hub, tmp_path / "state", url, f'[gate]\nkind = "file"\npath = "{gate}"\nretry_s = 0.5\n')
    with running(home):
        first = hub.assign(hub.publish("app", 1, [Payload("params", b"v1")]))
        until(lambda: type(journal(home).state).__name__ == "Ready")
        second = hub.assign(hub.publish("app", 2, [Payload("params", b"v2")]))
        gate.write_text("no")
        until(lambda: len(hub.ended()) == 1)
        gate.write_text("ok")
        until(lambda: len(hub.ended()) == 2)
    assert hub.ended() == [(first, "cancelled", "cancelled"), (second, "success", "")]
    assert version(home) == "v2"


def test_a_pending_device_polls_until_it_is_accepted(hub: StaticHub, url: str, tmp_path: Path) -> None:
    home = enrolled(hub, tmp_path / "state", url)
    real = hub.answer
    hub.answer = lambda *_a: (403, {}, b'{"code":"device_pending","detail":"Wait."}')  # type: ignore[method-assign]
    with running(home) as process:
        until(lambda: (describe(home)["last_error"] or {}).get("code") == "device_pending")
        assert process.poll() is None
        hub.answer = real  # type: ignore[method-assign]
        hub.assign(hub.publish("app", 1, [Payload("params", b"v1")]))
        until(hub.ended, 90)
    assert describe(home)["last_error"] is None


def test_an_inventory_is_sent_when_it_is_asked_for(hub: StaticHub, url: str, tmp_path: Path) -> None:
    home = enrolled(hub, tmp_path / "state", url)
    hub.poll["inventory"] = True
    with running(home):
        until(lambda: hub.kinds() == ["usage", "inventory"])
        time.sleep(2.5)
    assert hub.kinds() == ["usage", "inventory"], "once for each answer that asks"


def test_what_nobody_acts_on_waits_for_a_connection_that_is_open(hub: StaticHub, tmp_path: Path) -> None:
    """It is delivered right behind a poll, or with something that does not wait."""
    home, clock, storage = enrolled(hub, tmp_path / "state"), FakeClock(), DiskStorage()
    outbox, usage = Outbox(home.outbox, storage), Usage(home, UsageSettings(), storage, clock)
    usage.remember(Totals(0, 10**9), 1)
    agent = Agent(
        home,
        hub.link,
        storage=storage,
        clock=clock,
        service=ServiceManager({}),
        usage=usage,
        say=lambda _line: None,
        uniform=lambda _low, high: high,
    )
    hub.poll["jitter_s"] = 100

    def file(*, patient: bool) -> None:
        counter = outbox.next_counter()
        body = ProgressReport("d.1", f"STATE {counter}")
        signer = Signer(home.key.read_bytes(), "d-1", clock)
        outbox.add(counter, signer.report(counter, body), patient=patient)

    def posted() -> int:
        return sum(path == "/device/v1/reports" for _method, path in hub.asked)

    def look(seconds: float) -> None:
        """Wake before the next poll is due: a watchdog does, or a worker that ends."""
        now_s = clock.now_s
        agent.turn()
        clock.now_s = now_s + seconds

    look(10)
    file(patient=True)
    look(10)
    look(10)
    assert (polls(hub), posted()) == (1, 0)
    file(patient=False)
    look(10)
    assert (polls(hub), posted()) == (1, 1)
    file(patient=True)
    look(100)
    assert (polls(hub), posted()) == (1, 1)
    look(0)
    assert (polls(hub), posted()) == (2, 2)
    assert hub.kinds() == ["progress"] * 3
    assert outbox.counters() == []


def test_it_has_a_worker_report_the_use_of_the_craft(hub: StaticHub, url: str, tmp_path: Path) -> None:
    flown = tmp_path / "flown.json"
    flown.write_text('{"flights": 1, "running_s": 60}')
    home = enrolled(hub, tmp_path / "state", url, f'[usage]\nfile = "{flown}"\ninterval_s = 0.5\n')

    def said() -> list[tuple[int, int]]:
        bodies = [report.body for report in hub.reports]
        return [(body.flights, body.running_s) for body in bodies if isinstance(body, UsageReport)]

    with running(home):
        until(lambda: said() == [(1, 60)])
        flown.write_text("{")
        time.sleep(2)
        flown.write_text('{"flights": 2, "running_s": 90}')
        until(lambda: len(said()) > 1)
    assert said() == [(1, 60), (2, 90)]
    assert home.running.exists()


def test_it_tells_the_service_manager(hub: StaticHub, url: str, tmp_path: Path) -> None:
    home = enrolled(hub, tmp_path / "state", url)
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(address))
        listener.settimeout(20)
        heard: list[bytes] = []
        with running(home, NOTIFY_SOCKET=str(address), WATCHDOG_USEC="1000000"):
            began_s = time.monotonic()
            while heard.count(b"WATCHDOG=1") < 5:
                heard.append(listener.recv(1000))
            took_s = time.monotonic() - began_s
        while b"STOPPING=1" not in heard:
            heard.append(listener.recv(1000))
    assert heard[0] == b"READY=1"
    assert took_s < 10, "more often than the watchdog wants it"


def test_two_in_one_folder(hub: StaticHub, url: str, tmp_path: Path) -> None:
    home = enrolled(hub, tmp_path / "state", url)
    with running(home):
        until(lambda: polls(hub))
        second = subprocess.run(
            [AGENT, "run", "--once", "--state", str(home.root)], capture_output=True, text=True, check=False
        )
    assert second.returncode == 1
    assert "state_busy" in second.stderr


def test_the_unit_runs_the_command_that_exists() -> None:
    """The agent's own words, as the unit spells them."""
    from device_agent import cli

    unit = (Path(__file__).parents[3] / "deploy" / "sdx-agent.service").read_text()
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    arguments = command.partition("=")[2].split()[1:]
    options = cli._parser().parse_args(arguments)
    assert options.state == Path("/var/lib/sdx-agent")
    assert "Type=notify" in unit
    assert "WatchdogSec=" in unit

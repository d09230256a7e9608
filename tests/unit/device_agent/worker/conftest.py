"""A craft on release 1, with release 2 published, beside a hub in the same process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_agent import worker
from device_agent.core import journal as journals
from device_agent.core.journal import Journal
from device_agent.ports.commands import Outcome
from device_agent.ports.home import Home
from device_agent.ports.notes import read_worker
from device_agent.ports.storage import DiskStorage
from device_agent.worker.loop import Wanted
from device_agent.worker.pause import Pause
from device_agent.worker.workplace import Workplace, furnish
from tests.support.fake_clock import FakeClock
from tests.support.publisher import Payload
from tests.support.static_hub import StaticHub, enrolled

HEALTH = '[[health]]\nargv = ["/own/check"]\n'
ACTIVATE = '[activate]\nargv = ["/own/activate"]\n'


@dataclass
class FakeCommands:
    """Commands that end as the test wants.

    Attributes:
        ran: Every argv, in order.
        answers: Program to a function that tells whether it passes.
    """

    ran: list[tuple[str, ...]] = field(default_factory=list)
    answers: dict[str, Callable[[], bool]] = field(default_factory=dict)

    def run(self, argv: Sequence[str], folder: Path | None, timeout_s: float) -> Outcome:
        self.ran.append(tuple(argv))
        passed = self.answers.get(argv[0], lambda: True)()
        return Outcome(passed, f"{argv[0]} {'passed' if passed else 'failed'}")


def payloads(counter: int) -> list[Payload]:
    folder = {"check": b"#!/bin/sh\nexit 0\n", "bin/tool": b"%d" % counter * 5000, "VERSION": b"%d" % counter}
    return [Payload("server", folder, ("./check",)), Payload("params", b"RTL_ALT,%d\n" % counter)]


@dataclass
class Craft:
    """The agent's worker in this process."""

    hub: StaticHub
    home: Home
    clock: FakeClock = field(default_factory=FakeClock)
    commands: FakeCommands = field(default_factory=FakeCommands)

    def run_once(self, **more: Any) -> int:
        parts: dict[str, Any] = {"clock": self.clock, "commands": self.commands, "hub": self.hub.link}
        return worker.run(self.home.root, uniform=lambda _a, b: b, **(parts | more))

    def place(self) -> Workplace:
        return furnish(
            self.home,
            storage=DiskStorage(),
            clock=self.clock,
            commands=self.commands,
            hub=self.hub.link,
            uniform=lambda _a, b: b,
        )

    def work(self, wanted: Wanted | None = None, *, restarted: bool = False, **more: Any) -> Pause:
        """One worker, as the poller starts it."""
        action = self.hub.action
        return worker.work(self.place(), wanted or (lambda: action), restarted=restarted, **more)[0]

    @property
    def journal(self) -> Journal:
        return journals.decode(self.home.journal.read_bytes()) if self.home.journal.exists() else Journal()

    @property
    def state(self) -> str:
        return str(self.journal.state.__struct_config__.tag)

    def version(self, component: str = "server") -> str:
        return (self.home.slots / component / "current" / "VERSION").read_text()

    def last(self) -> tuple[str, str]:
        last = self.journal.last
        assert last is not None
        return last.result, last.code

    def error(self) -> str:
        error = read_worker(self.home.worker).error
        return error.code if error is not None else ""

    def settings(self, text: str) -> None:
        with self.home.settings.open("a") as file:
            file.write(text)

    def status(self) -> Any:
        from device_agent.status import describe

        return msgspec.to_builtins(describe(self.home))


@pytest.fixture
def hub() -> StaticHub:
    return StaticHub()


@pytest.fixture
def craft(hub: StaticHub, tmp_path: Path) -> Craft:
    """On release 1, idle, everything reported."""
    craft = Craft(hub, enrolled(hub, tmp_path / "state"))
    hub.assign(hub.publish("app", 1, payloads(1)))
    assert craft.run_once() == 0
    hub.reports.clear()
    hub.asked.clear()
    craft.commands.ran.clear()
    craft.clock.slept.clear()
    return craft

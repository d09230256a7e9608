"""The flight gate: may the craft be changed now? Whatever is unknown counts as no."""

from pathlib import Path
from typing import NamedTuple, Protocol

from device_agent.ports.commands import Commands

_OPEN = "ok"


class GateAnswer(NamedTuple):
    """Whether it is open, and why, for people."""

    is_open: bool
    reason: str


class Gate(Protocol):
    def ask(self) -> GateAnswer: ...


class NoGate:
    """Nothing tells the flight state: always open, and said so in `sdx-agent status`."""

    def ask(self) -> GateAnswer:
        return GateAnswer(True, "no flight gate is configured: always open")


class FileGate:
    """Open while a file that another program keeps holds `ok`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self) -> GateAnswer:
        try:
            with self._path.open("rb") as file:
                said = file.read(256)
        except OSError as error:
            return GateAnswer(False, f"{self._path} cannot be read ({error.strerror}): that counts as no")
        if said.strip() == _OPEN.encode():
            return GateAnswer(True, f"{self._path} says {_OPEN}")
        return GateAnswer(False, f"{self._path} says {said[:60].decode('utf-8', 'replace').strip()!r}")


class CommandGate:
    """Open when a command ends with status 0."""

    def __init__(self, commands: Commands, argv: tuple[str, ...], timeout_s: float) -> None:
        self._commands, self._argv, self._timeout_s = commands, argv, timeout_s

    def ask(self) -> GateAnswer:
        outcome = self._commands.run(self._argv, None, self._timeout_s)
        return GateAnswer(outcome.ok, outcome.detail)

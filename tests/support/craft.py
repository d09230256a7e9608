"""One craft under test: the real agent as a process, and a look at everything that it must not change."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AGENT = str(Path(sys.executable).parent / "sdx-agent")
HARDWARE = "rpi-cm4"


@dataclass(frozen=True)
class Outcome:
    """How one run of the agent ended."""

    code: int
    log: str


@dataclass
class Craft:
    """An enrolled craft.

    Attributes:
        state: The agent's state folder.
        serial: Its serial number.
        environment: Extra environment of its processes (a wrong clock, for instance).
        wrapper: Put before the command (`faketime ...`).
    """

    state: Path
    serial: str
    hardware: str = HARDWARE
    environment: dict[str, str] = field(default_factory=dict)
    wrapper: tuple[str, ...] = ()

    def enrol(self, hub: str, enrol_string: str) -> Outcome:
        command = ["enrol", "--hub", hub, "--token-file", "-", "--serial", self.serial, "--hardware", self.hardware]
        return self._agent(*command, "--json", stdin=enrol_string)

    def run_once(self, timeout_s: float = 120) -> Outcome:
        """Poll, do all that is to be done, report, and end."""
        return self._agent("run", "--once", timeout_s=timeout_s)

    def status(self) -> dict[str, Any]:
        outcome = subprocess.run(
            [AGENT, "status", "--state", str(self.state), "--json"], capture_output=True, text=True, check=True
        )
        answer: dict[str, Any] = json.loads(outcome.stdout)
        return answer

    def settings(self, text: str) -> None:
        """Add lines to the agent's settings: tables at the end of the file, keys before its first table."""
        file = self.state / "agent.toml"
        parts = [file.read_text(), text.strip() + "\n"]
        file.write_text("".join(parts if text.lstrip().startswith("[") else reversed(parts)))

    @property
    def device_id(self) -> str:
        return (self.state / "identity" / "device_id").read_text().strip()

    @property
    def token(self) -> str:
        return (self.state / "identity" / "token").read_text().strip()

    def point_at(self, hub: str) -> None:
        """Have the agent talk to another address: a proxy, say."""
        file = self.state / "agent.toml"
        lines = [
            f"hub = {json.dumps(hub)}" if line.startswith("hub =") else line for line in file.read_text().split("\n")
        ]
        file.write_text("\n".join(lines))

    def installed(self) -> dict[str, str]:
        """Every file outside the download folder that a component could have put there, by digest."""
        found: dict[str, str] = {}
        slots = self.state / "slots"
        for path in sorted(slots.rglob("*")) if slots.exists() else []:
            name = str(path.relative_to(slots))
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def running(self) -> dict[str, str]:
        """What the `current` links lead to: component/file to digest."""
        found: dict[str, str] = {}
        for link in sorted((self.state / "slots").glob("*/current")):
            for path in sorted(link.resolve().rglob("*")):
                if path.is_file():
                    key = f"{link.parent.name}/{path.relative_to(link.resolve())}"
                    found[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def unchanged(self) -> dict[str, Any]:
        """All that an attack must leave as it is: running files, journal floor, running version."""
        status = self.status()
        return {
            "running": self.running(),
            "floors": status["floors"],
            "versions": {part["name"]: (part["version"], part["sha256"]) for part in status["components"]},
        }

    def _agent(self, *arguments: str, stdin: str = "", timeout_s: float = 60) -> Outcome:
        outcome = subprocess.run(
            [*self.wrapper, AGENT, *arguments, "--state", str(self.state)],
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=os.environ | self.environment,
        )
        return Outcome(outcome.returncode, outcome.stdout + outcome.stderr)

"""One person's machine: a folder, a user config, and the real `sdx` command."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.hub import SDX

PASSPHRASE = "correct horse battery staple"


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The stable code of the error that it told about."""
        return str(self.json["error"]["code"])


@dataclass
class Machine:
    """A person at work.

    Attributes:
        folder: Working folder; the user config and its cache are below it.
        environment: More variables for every command.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self, *arguments: str) -> tuple[list[str], dict[str, Any]]:
        """The command line of `sdx ... --json` and where to run it."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
        environment = clean | {"SDX_CONFIG": str(self.folder / "config")} | self.environment
        return [SDX, *arguments, "--json"], {"cwd": self.folder, "env": environment}

    def run(self, *arguments: str, secret: str = "", through: str = "") -> Outcome:
        """Run `sdx ... --json`; a secret goes through a pipe to the option `through`."""
        command, where = self.command(*arguments)
        reading: tuple[int, ...] = ()
        if through:
            source, sink = os.pipe()
            os.write(sink, secret.encode() + b"\n")
            os.close(sink)
            command += [through, str(source)]
            reading = (source,)
        try:
            done = subprocess.run(
                command,
                **where,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                pass_fds=reading,
                check=False,
            )
        finally:
            for descriptor in reading:
                os.close(descriptor)
        assert "Traceback" not in done.stderr, done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    def sdx(self, *arguments: str) -> Any:
        """Run a command that must succeed; return its JSON."""
        outcome = self.run(*arguments)
        assert outcome.code == 0, (arguments, outcome)
        return outcome.json

    def unlocked(self, *arguments: str) -> Outcome:
        """Run a command that needs the passphrase."""
        return self.run(*arguments, secret=PASSPHRASE, through="--passphrase-fd")

    def signs(self, *arguments: str) -> Any:
        """Run a command that needs the passphrase and must succeed."""
        outcome = self.unlocked(*arguments, "--yes")
        assert outcome.code == 0, (arguments, outcome)
        return outcome.json

    def login(self, url: str, token: str, image_root_sha256: str) -> None:
        outcome = self.run(
            "login", "--hub", url, "--image-root-sha256", image_root_sha256, secret=token, through="--token-fd"
        )
        assert outcome.code == 0, outcome

"""Running `sdx` and `sdx-agent` the way that people do, with secrets through file descriptors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdx_hub.demo.errors import DemoError


def program(name: str) -> str:
    """The console script of this very installation."""
    return str(Path(sys.executable).parent / name)


def clean_environment() -> dict[str, str]:
    """Our own environment without settings of a hub or a person: those are not meant for the demo."""
    return {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}


class Tools:
    """The `sdx` command of one person: a config of their own, and one passphrase.

    Args:
        config: Their user config file.
        passphrase: Opens the demo's signing keys.
        root: Working folder of the commands.
        environment: More variables for the commands.
    """

    def __init__(self, config: Path, passphrase: str, root: Path, environment: Mapping[str, str] | None = None) -> None:
        self._passphrase = passphrase
        self._root = root
        self._environment = clean_environment() | {"SDX_CONFIG": str(config)} | dict(environment or {})

    def __repr__(self) -> str:
        return f"Tools(root={self._root})"

    def sdx(self, *arguments: str, secret: str = "", through: str = "") -> Any:
        """Run `sdx ... --json` and return what it answers.

        Args:
            arguments: The command without `--json`.
            secret: Goes through a pipe to the option named by `through`.
            through: For instance `--token-fd`.

        Raises:
            DemoError: The command failed; its own words are in the message.
        """
        command = [program("sdx"), *arguments, "--json"]
        reading: tuple[int, ...] = ()
        if through:
            source, sink = os.pipe()
            os.write(sink, secret.encode() + b"\n")
            os.close(sink)
            command += [through, str(source)]
            reading = (source,)
        try:
            outcome = subprocess.run(  # noqa: S603 - our own command
                command,
                capture_output=True,
                text=True,
                check=False,
                cwd=self._root,
                env=self._environment,
                pass_fds=reading,
            )
        finally:
            for descriptor in reading:
                os.close(descriptor)
        if outcome.returncode != 0:
            raise DemoError(
                f"`sdx {' '.join(arguments)}` ended with {outcome.returncode}: "
                f"{outcome.stdout.strip()} {outcome.stderr.strip()}"
            )
        return json.loads(outcome.stdout) if outcome.stdout.strip() else None

    def watched(self, *arguments: str, hear: Callable[[str], None]) -> tuple[int, Any]:
        """Run `sdx ... --json` that takes its time.

        Args:
            arguments: The command without `--json`.
            hear: Takes each line that it says meanwhile.

        Returns:
            Its exit code, and what it answers; of a failure the object with `code`, `message` and `extra`.
        """
        command = [program("sdx"), *arguments, "--json"]
        with subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._root,
            env=self._environment,
        ) as running:
            # Its one object on stdout comes at the end, so that reading one after the other never blocks it.
            if running.stderr is not None:
                for line in running.stderr:
                    hear(line.rstrip())
            said = running.stdout.read() if running.stdout is not None else ""
        answer = json.loads(said) if said.strip() else {}
        return running.returncode, answer.get("error", answer)

    def sdx_with_passphrase(self, *arguments: str) -> Any:
        return self.sdx(*arguments, secret=self._passphrase, through="--passphrase-fd")

"""Commands that the device or a payload brings: health checks, activation, the gate. No shell, bounded in time."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHOWN_BYTES = 300


class Outcome(NamedTuple):
    """How a command ended; `detail` is a sentence part for people."""

    ok: bool
    detail: str


class Commands(Protocol):
    def run(self, argv: Sequence[str], folder: Path | None, timeout_s: float) -> Outcome:
        """Run a command without a shell.

        Args:
            argv: A program without a leading `/` is inside `folder`, and may not leave it.
            folder: Working directory; None for the device's own commands.
            timeout_s: It counts as failed after so long, and its whole process group is killed.
        """


class ProcessCommands:
    """Real processes."""

    def run(self, argv: Sequence[str], folder: Path | None, timeout_s: float) -> Outcome:
        program = argv[0]
        if not program.startswith("/"):
            if folder is None:
                return Outcome(False, f"{program} must be an absolute path")
            inside = (folder / program).resolve()
            if not inside.is_relative_to(folder.resolve()):
                return Outcome(False, f"{program} leaves the component's folder")
            program = str(inside)
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell; the argv is signed, or from agent.toml
                [program, *argv[1:]],
                cwd=folder,
                env={"PATH": _PATH, "LANG": "C.UTF-8", "HOME": "/"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return Outcome(False, f"{argv[0]} cannot be started: {error.strerror}")
        return _finish(process, argv[0], timeout_s)


def _finish(process: subprocess.Popen[bytes], name: str, timeout_s: float) -> Outcome:
    try:
        _out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Outcome(False, f"{name} did not finish within {timeout_s:g} s")
    if process.returncode == 0:
        return Outcome(True, f"{name} passed")
    said = err[-_SHOWN_BYTES:].decode("utf-8", "replace").strip()
    return Outcome(False, f"{name} ended with status {process.returncode}" + (f": {said}" if said else ""))

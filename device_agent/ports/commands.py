"""Commands that the device or a payload brings: health checks, activation, the gate. No shell, bounded in time."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHOWN_BYTES = 300
_READ_BYTES = 64 * 1024


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
    """Wait for the end of the process itself: one that it left behind may keep the pipe open for ever."""
    end_s = time.monotonic() + timeout_s
    said = bytearray()
    pipe = process.stderr
    if pipe is None:
        raise RuntimeError("The process was started with a pipe.")
    ended = os.pidfd_open(process.pid)
    try:
        os.set_blocking(pipe.fileno(), False)
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        waiting.register(pipe, select.POLLIN)
        while True:
            left_s = end_s - time.monotonic()
            ready = {descriptor for descriptor, _events in waiting.poll(max(left_s, 0.0) * 1000)}
            if pipe.fileno() in ready and not _listen(pipe.fileno(), said):
                waiting.unregister(pipe)
            if ended in ready:
                break
            if left_s <= 0:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return Outcome(False, f"{name} did not finish within {timeout_s:g} s")
    finally:
        os.close(ended)
        pipe.close()
    status = process.wait()
    if status == 0:
        return Outcome(True, f"{name} passed")
    text = said.decode("utf-8", "replace").strip()
    return Outcome(False, f"{name} ended with status {status}" + (f": {text}" if text else ""))


def _listen(pipe: int, said: bytearray) -> bool:
    """Keep the end of what a process says; return whether more can come. It may talk without an end."""
    try:
        piece = os.read(pipe, _READ_BYTES)
    except BlockingIOError:
        return True
    said += piece
    del said[:-_SHOWN_BYTES]
    return bool(piece)

"""What a process costs, read from /proc (proc(5)): CPU seconds with all its children, and memory."""

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class _Stat(NamedTuple):
    parent: int
    cpu_s: float
    gone_children_cpu_s: float


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name is in parentheses and may hold anything; the fields are counted after the last one.
    fields = text.rpartition(")")[2].split()
    return _Stat(
        parent=int(fields[1]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        gone_children_cpu_s=(int(fields[13]) + int(fields[14])) / _TICKS,
    )


def tree(root: int) -> list[int]:
    """A process and everything below it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            below.setdefault(stat.parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += below.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """User and system seconds of a process, of all below it, and of those below it that have ended."""
    stats = [stat for pid in tree(root) if (stat := _stat(pid)) is not None]
    return sum(stat.cpu_s + stat.gone_children_cpu_s for stat in stats)


def memory_kib(pid: int, field: str) -> int:
    """A line of /proc/PID/status: `VmHWM` is the peak of the resident set, `VmRSS` the set now.

    Returns:
        KiB; 0 where the process has ended.
    """
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0


def proportional_kib(pid: int) -> int:
    """The proportional set (PSS) of a process: shared pages count by share. 0 where it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], within_s: float = 60) -> None:
    """Return when something listens on a loopback port.

    Raises:
        RuntimeError: The process ended, or the time is over.
    """
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"The server ended with status {process.returncode} before it listened.")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"Nothing listens on port {port} after {within_s:g} s.")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that this program started."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

"""Starting a server so that it cannot outlive whoever started it."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil

_STARTER = ThreadPoolExecutor(1, "starter")
"""For the kernel the parent is the thread that starts a process: this one lives as long as we do."""
_AS_NOBODY = (
    # A server that refuses root still has to reach files below folders that only root may enter.
    *("--reuid=nobody", "--regid=nogroup", "--clear-groups"),
    *("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--bounding-set=-all,+dac_override"),
)


def start(
    command: Sequence[str],
    log: Path,
    *,
    end_with: signal.Signals = signal.SIGTERM,
    as_nobody: bool = False,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own; the kernel ends it when this process has ended, however that was.

    Args:
        command: Program and arguments.
        log: What it says is added here.
        end_with: What the kernel sends it when its parent is gone (`PR_SET_PDEATHSIG`).
        as_nobody: Not as root.
        environment: All of it; our own where None.
    """
    with log.open("ab") as sink:
        return _STARTER.submit(
            subprocess.Popen,
            as_command(command, end_with=end_with, as_nobody=as_nobody),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=dict(environment) if environment is not None else None,
            start_new_session=True,
        ).result()


def as_command(command: Sequence[str], *, end_with: signal.Signals, as_nobody: bool) -> list[str]:
    """The command behind `setpriv`, which binds it to its parent's life and takes root away."""
    nobody = _AS_NOBODY if as_nobody else ()
    return ["setpriv", *nobody, "--pdeathsig", end_with.name.removeprefix("SIG"), "--", *command]


def kill_all(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL to a server and everything that it started, as a machine that loses power does."""
    try:
        whole = psutil.Process(process.pid)
        family = [whole, *whole.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(family)


def free_port() -> int:
    """A port of the loopback interface that nobody has now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_root() -> bool:
    return os.geteuid() == 0

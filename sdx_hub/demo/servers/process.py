"""Starting a server so that it cannot outlive whoever started it."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import psutil

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
    """Start a server in a session of its own; the kernel ends it when the thread that called this one has ended.

    Args:
        command: Program and arguments.
        log: What it says is added here.
        end_with: What the kernel sends it when its parent is gone (`PR_SET_PDEATHSIG`).
        as_nobody: Not as root.
        environment: All of it; our own where None.
    """
    with log.open("ab") as sink:
        return subprocess.Popen(  # noqa: S603 - servers that the project names
            as_command(command, end_with=end_with, as_nobody=as_nobody),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=dict(environment) if environment is not None else None,
            start_new_session=True,
        )


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

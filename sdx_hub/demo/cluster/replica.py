"""One replica of the hub as a process, and what may befall it."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx

from sdx_hub.demo.cluster.topology import HubPlace, hub_command
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.servers import process
from sdx_hub.demo.tools import clean_environment, program

START_S = 60.0
_POLLS = re.compile(r'^sdx_polls_total\{answer="(?:un)?changed"\} (\S+)$', re.MULTILINE)
_STOP_S = 40.0
"""The hub gives requests 20 s to end."""


class Replica:
    """`sdx hub serve` at its place; it can be started again as often as one likes.

    It ends with the thread that called `start`.

    Args:
        place: Where it is.
        environment: Its `SDX_*` settings.
        log: What it says is added here.
    """

    def __init__(self, place: HubPlace, environment: Mapping[str, str], log: Path) -> None:
        self.url = f"http://{place.address}"
        self.log = log
        self._command = [program("sdx"), *hub_command(place)[1:]]
        self._environment = clean_environment() | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Replica({self.url})"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the main process, which leads a group of its own with its workers."""
        if self._process is None:
            raise DemoError(f"{self} does not run.")
        return self._process.pid

    def launch(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it without waiting.

        Args:
            environment: More variables, for this start alone.
        """
        if self.running:
            raise DemoError(f"{self} runs already.")
        self._process = process.start(self._command, self.log, environment=self._environment | dict(environment or {}))

    def wait_until_ready(self) -> None:
        """Wait until it can do its work.

        Raises:
            DemoError: It ended, or is not ready in time; its last words are in the message.
        """
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if not self.running:
                raise DemoError(f"{self} ended by itself: {self._last_words()}")
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            time.sleep(0.05)
        raise DemoError(f"{self} is not ready after {START_S:.0f} s: {self._last_words()}")

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        self.launch(environment)
        self.wait_until_ready()

    def polls(self) -> int:
        """How many polls of devices it has answered with success since its start."""
        figures = httpx.get(f"{self.url}/metrics", timeout=10).raise_for_status().text
        return int(sum(float(count) for count in _POLLS.findall(figures)))

    def kill(self) -> None:
        """SIGKILL to all of its processes, without a warning."""
        self._signal(signal.SIGKILL)
        self.wait()

    def pause(self) -> None:
        """Freeze all of its processes, as a hypervisor does that moves a machine."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, as a service manager does, and wait until it has ended."""
        self.ask_to_end()
        self.wait()

    def ask_to_end(self) -> None:
        """SIGTERM alone; one that is frozen wakes up for it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self.resume()
                os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> None:
        """Wait until it has ended; one that does not is killed."""
        if self._process is not None:
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill_all(self._process)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

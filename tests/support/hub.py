"""A real hub: the `sdx hub serve` process on a free port of the loopback interface."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

SDX = str(Path(sys.executable).parent / "sdx")
START_S = 60.0


class HubProcess:
    """`sdx hub serve` with one data folder; the port stays the same over restarts.

    Args:
        data: The data folder.
        environment: `SDX_*` settings.
        workers: Processes that serve.

    Attributes:
        wrapper: Put before the command from the next start on.
    """

    wrapper: tuple[str, ...] = ()

    def __init__(self, data: Path, environment: dict[str, str], workers: int = 1) -> None:
        self.data = data
        self.port = 0
        self.log = data.parent / "hub.log"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
        self.environment |= environment
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the main process; the workers are its children."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start it, and wait until it says that it is ready; return the seconds that this took."""
        assert self._process is None
        started = time.monotonic()
        seen = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [SDX, "hub", "serve", "--data", str(self.data), "--host", "127.0.0.1", "--port", str(self.port)]
            self._process = subprocess.Popen(
                [*self.wrapper, *command, "--workers", str(self._workers)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )
        while True:
            said = self.log.read_bytes()[seen:].decode(errors="replace")
            line = next((line for line in said.splitlines(keepends=True) if "The hub is ready: " in line), "")
            if line.endswith("\n"):
                self.port = int(line.strip().rpartition(":")[2])
                return time.monotonic() - started
            assert self._process.poll() is None, f"the hub ended with {self._process.returncode}: {said}"
            assert time.monotonic() - started < START_S, f"the hub is not ready after {START_S} s: {said}"
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, without a warning, to every process of it."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, as a service manager would; return the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended by itself; return the exit code."""
        assert self._process is not None
        code = self._process.wait(40)
        self._process = None
        return code

    def close(self) -> None:
        if self._process is not None:
            self._end(signal.SIGKILL)

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(errors="replace")

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        self._process.wait(20)
        self._process = None

"""The demo with one hub on its embedded defaults, and with real software from the package index."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from sdx_hub.demo import payloads
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.fleet import NEW_BOARD, end_group
from sdx_hub.demo.servers import process
from sdx_hub.demo.story import Story
from sdx_hub.demo.tools import clean_environment, program

CONFIG_CHANGE = ("RTL_ALT,1500", "RTL_ALT,2000")
_SETTINGS = {
    "SDX_POLL_INTERVAL_S": "1",
    "SDX_POLL_JITTER_S": "1",
    "SDX_ROLLOUT_TICK_MS": "200",
    "SDX_ROLLOUT_SOAK_S": "1",
    "SDX_ROLLOUT_SILENT_S": "120",
}
"""A fleet of minutes instead of days."""
_START_S = 60.0


class Demo(Story):
    """One hub and a fleet in one folder.

    Args:
        folder, devices, say: As for every story.
        port: Of the hub, on 127.0.0.1.
    """

    product = "mavsdk"

    def __init__(self, folder: Path, devices: int, port: int, say: Callable[[str], None]) -> None:
        super().__init__(folder, devices, say)
        self._port = port
        self.url = f"http://127.0.0.1:{port}"
        self._hub: subprocess.Popen[bytes] | None = None

    def prepare_software(self, cache: Path) -> None:
        """Fetch the real wheels and make payloads of them: two good ones, and one that is broken for the new board."""
        work = self.folder / "payloads"
        template = (Path(__file__).parent / "copter.param").read_text()
        for number, version in enumerate(payloads.VERSIONS):
            self._say(f"Fetching mavsdk {version} for linux aarch64 from the package index.")
            payloads.unpack(payloads.fetch_wheel(version, cache), version, work / version)
            config = template if number == 0 else template.replace(*CONFIG_CHANGE)
            (work / f"{version}.param").write_text(config)
        broken = payloads.BROKEN_VERSION
        whole = payloads.next_version(work / payloads.VERSIONS[-1], broken, work / broken)
        payloads.break_payload(whole, work / f"{broken}-{NEW_BOARD}")
        (work / f"{broken}.param").write_text(template.replace(*CONFIG_CHANGE) + "LOG_BITMASK,65535\n")

    def start_hub(self) -> None:
        """Key ceremony, import, start, and two people who log in.

        Raises:
            DemoError: A command failed, or the hub did not become ready.
        """
        self.hold_ceremony()
        first = self.alice.sdx("hub", "init", "--data", "hub", "--ceremony", "ceremony")
        command = [program("sdx"), "hub", "serve", "--data", str(self.folder / "hub"), "--host", "127.0.0.1"]
        self._hub = process.start(
            [*command, "--port", str(self._port)],
            self._log,
            environment=clean_environment() | _SETTINGS,
        )
        self._wait_until_ready(self._hub)
        self.log_in(first)
        self._say(f"The hub is up: {self.url}")

    def enrol_fleet(self) -> None:
        super().enrol_fleet()
        started = [craft.process for craft in self.craft] + [self._hub]
        self.save([each.pid for each in started if each is not None])

    def close(self) -> None:
        """Stop the agents and the hub."""
        super().close()
        if self._hub is not None:
            end_group(self._hub.pid)
            self._hub.wait(timeout=20)

    @property
    def _log(self) -> Path:
        return self.folder / "hub.log"

    def _wait_until_ready(self, hub: "subprocess.Popen[bytes]") -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            if hub.poll() is not None:
                raise DemoError(f"The hub ended by itself; its log: {self._log.read_text()[-2000:]}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise DemoError(f"Waited {_START_S:.0f} s for the hub to be ready.")

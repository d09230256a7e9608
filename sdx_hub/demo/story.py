"""The demo's plot, one method a chapter; what it claims at the end was read back from signed inventories."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from sdx_hub.demo import payloads
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.fleet import HARDWARE, Craft, end_group
from sdx_hub.demo.tools import Tools, program

PRODUCT = "mavsdk"
TEAM = "nav"
CONFIG_CHANGE = ("RTL_ALT,1500", "RTL_ALT,2000")
_WAIT_S = 300.0


class Demo:
    """A hub and a fleet in one folder.

    Args:
        folder: Everything is in here; nothing else on the machine is touched.
        devices: How many craft.
        port: Of the hub, on 127.0.0.1.
        say: Takes a sentence for the person who watches.
    """

    def __init__(self, folder: Path, devices: int, port: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._port = port
        self.url = f"http://127.0.0.1:{port}"
        self._hub: subprocess.Popen[bytes] | None = None
        self._passphrase = secrets.token_urlsafe(24)
        self.people = {
            name: Tools(folder / "people" / f"{name}.toml", self._passphrase, folder) for name in ("alice", "bob")
        }
        self.craft = [
            Craft(f"craft-{number:02}", folder / "craft" / f"{number:02}") for number in range(1, devices + 1)
        ]

    @property
    def alice(self) -> Tools:
        return self.people["alice"]

    def prepare_software(self, cache: Path) -> None:
        """Fetch the real wheels and make three payloads of them: two good ones and a broken one."""
        work = self._folder / "payloads"
        template = (Path(__file__).parent / "copter.param").read_text()
        for number, version in enumerate(payloads.VERSIONS):
            self._say(f"Fetching mavsdk {version} for linux aarch64 from the package index.")
            payloads.unpack(payloads.fetch_wheel(version, cache), version, work / version)
            config = template if number == 0 else template.replace(*CONFIG_CHANGE)
            (work / f"{version}.param").write_text(config)
        payloads.break_payload(work / payloads.VERSIONS[-1], work / payloads.BROKEN_VERSION)
        (work / f"{payloads.BROKEN_VERSION}.param").write_text(template.replace(*CONFIG_CHANGE) + "LOG_BITMASK,65535\n")

    def start_hub(self) -> None:
        """Key ceremony, import, start, and two people who log in.

        Raises:
            DemoError: A command failed, or the hub did not become ready.
        """
        self._say("Key ceremony: roots 3 of 5, targets 2 of 3, team nav 2 of 3. One person holds all keys: a demo.")
        self.alice.sdx_with_passphrase("keys", "ceremony", "ceremony", "--team", TEAM, "--yes")
        first = self.alice.sdx("hub", "init", "--data", "hub", "--ceremony", "ceremony")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
        environment |= {"SDX_POLL_INTERVAL_S": "1", "SDX_POLL_JITTER_S": "1"}
        log = (self._folder / "hub.log").open("ab")
        self._hub = subprocess.Popen(  # noqa: S603 - our own command
            [program("sdx"), "hub", "serve", "--data", "hub", "--host", "127.0.0.1", "--port", str(self._port)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=self._folder,
            env=environment,
            start_new_session=True,
        )
        log.close()
        self._until(self._hub_ready, "the hub to be ready", 60)
        pin = first["image_root_sha256"]
        for tools in self.people.values():
            tools.sdx(
                "login",
                "--hub",
                self.url,
                "--image-root-sha256",
                pin,
                secret=first["admin_token"],
                through="--token-fd",
            )
        self._say(f"The hub is up: {self.url}")

    def enrol_fleet(self) -> None:
        """A single-use token for each serial; then every agent runs as a process of its own."""

        def enrol(craft: Craft) -> None:
            token = self.alice.sdx("device", "token", "--serial", craft.serial)
            craft.enrol(self.url, token["enrol_string"])
            self.alice.sdx("device", "tag", craft.serial, "fleet")
            craft.start()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(enrol, self.craft))
        self._save()
        self._say(f"{len(self.craft)} craft enrolled ({HARDWARE}); their agents run.")

    def release(self, version: str) -> None:
        """Build, sign by two people, publish, assign to the whole fleet."""
        bundle = f"{PRODUCT}-{version}.sdx"
        work = f"payloads/{version}"
        self.alice.sdx(
            *("release", "build", "--product", PRODUCT, "--version", version, "--hardware", HARDWARE),
            *("--component", f"server=directory:{work}", "--component", f"params=file:{work}.param"),
            *("--health", "server=./check", "-o", bundle),
        )
        for name, tools in self.people.items():
            number = list(self.people).index(name) + 1
            signer = f"ceremony/keys/{TEAM}-{number}.key"
            tools.sdx_with_passphrase("release", "sign", bundle, "--signer", signer, "--yes")
        published = self.alice.sdx("release", "publish", bundle, "--yes")
        if published["state"] != "published":
            raise DemoError(f"{bundle} was not published: {published}")
        self.alice.sdx("device", "assign", f"{PRODUCT}@{version}", "--tag", "fleet", "--yes")
        self._say(f"{PRODUCT}@{version}: built, signed by two people, published, assigned to the fleet.")

    def wait_for(self, version: str, result: str) -> int:
        """Wait until every craft has ended its latest action with `result` and proves that it runs `version`.

        Returns:
            The number of craft.

        Raises:
            DemoError: Not all of them did in time.
        """
        started = time.monotonic()
        proven: set[str] = set()
        told = -1
        while len(proven) < len(self.craft):
            listed = {device["serial"]: device for device in self.alice.sdx("device", "list", "--tag", "fleet")}
            for craft in self.craft:
                action = listed[craft.serial].get("action") or {}
                if craft.serial not in proven and action.get("state") == result and self._proven(craft) == version:
                    proven.add(craft.serial)
            if len(proven) != told:
                told = len(proven)
                self._say(f"  {told} of {len(self.craft)} craft: {result.replace('_', ' ')}, running {version}.")
            if len(proven) < len(self.craft) and time.monotonic() - started > _WAIT_S:
                stuck = {craft.serial: craft.status() for craft in self.craft if craft.serial not in proven}
                raise DemoError(f"After {_WAIT_S:.0f} s these craft are not there: {json.dumps(stuck, default=str)}")
        return len(proven)

    def close(self) -> None:
        """Stop the agents and the hub."""
        for craft in self.craft:
            craft.stop()
        if self._hub is not None:
            end_group(self._hub.pid)
            self._hub.wait(timeout=20)
        (self._folder / "running.json").unlink(missing_ok=True)

    def _proven(self, craft: Craft) -> str:
        """The version that the craft's own signature vouches for, read from its slots as well."""
        proof = self.alice.sdx("device", "inventory", craft.serial)
        inventory = craft.proves(proof["payload"], proof["signature"])
        versions = {part.version for part in inventory.components if part.product == PRODUCT}
        installed = craft.state / "slots" / "server" / "current" / "VERSION"
        if versions == {v := installed.read_text().strip() if installed.exists() else ""}:
            return v
        return ""

    def _hub_ready(self) -> bool:
        if self._hub is not None and self._hub.poll() is not None:
            raise DemoError(f"The hub ended by itself; its log: {(self._folder / 'hub.log').read_text()[-2000:]}")
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def _until(self, condition: Callable[[], bool], what: str, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                raise DemoError(f"Waited {limit_s:.0f} s for {what}.")
            time.sleep(0.1)

    def _save(self) -> None:
        """Leave what `sdx demo down` and `sdx demo break` need."""
        pids = [craft.process.pid for craft in self.craft if craft.process]
        if self._hub is not None:
            pids.append(self._hub.pid)
        (self._folder / "running.json").write_text(json.dumps({"url": self.url, "pids": pids}))

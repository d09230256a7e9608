"""What happens in every demo, one method a chapter; what it claims was read back from signed inventories."""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import Struct

from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.fleet import COMPONENTS, Craft, board_of
from sdx_hub.demo.rolling import Ended, Rolling
from sdx_hub.demo.tools import Tools

TEAM = "nav"
RUNNING = "running.json"
"""Its being there keeps a demo up, and it names the processes for `sdx demo down`."""
_WAIT_S = 300.0


class Outcome(Struct, frozen=True):
    """What a release that was stopped has done, in craft.

    Attributes:
        hurt: It failed on them, and they rolled back by themselves.
        reverted: They were brought back by the revert, those that had committed it as well.
        spared: They were never offered it.
        proven: A signed inventory says that they run what they ran before.
    """

    hurt: int
    reverted: int
    spared: int
    proven: int


class Story:
    """Two people and a fleet; where the hub is, a subclass knows.

    Args:
        folder: Everything is in here; nothing else on the machine is touched.
        devices: How many craft.
        say: Takes a sentence for the person who watches.
        environment: More variables for people and craft: an authority to trust, say.
    """

    url: str
    product: str

    def __init__(
        self, folder: Path, devices: int, say: Callable[[str], None], environment: Mapping[str, str] | None = None
    ) -> None:
        self.folder = folder
        self._say = say
        self._passphrase = secrets.token_urlsafe(24)
        more = dict(environment or {})
        self.people = {
            name: Tools(folder / "people" / f"{name}.toml", self._passphrase, folder, more) for name in ("alice", "bob")
        }
        self.craft = [
            Craft(f"craft-{number:02}", folder / "craft" / f"{number:02}", board_of(number), more)
            for number in range(1, devices + 1)
        ]

    @property
    def alice(self) -> Tools:
        return self.people["alice"]

    @property
    def rolling(self) -> Rolling:
        """Alice's rollouts."""
        return Rolling(self.alice, self._say)

    def hold_ceremony(self) -> None:
        """Make every key that a hub, its team and its craft need."""
        self._say("Key ceremony: roots 3 of 5, targets 2 of 3, team nav 2 of 3. One person holds all keys: a demo.")
        self.alice.sdx_with_passphrase("keys", "ceremony", "ceremony", "--team", TEAM, "--yes")

    def log_in(self, first: Mapping[str, Any]) -> None:
        """Everybody logs in, with what `sdx hub init` said."""
        arguments = ("login", "--hub", self.url, "--image-root-sha256", first["image_root_sha256"])
        for tools in self.people.values():
            tools.sdx(*arguments, secret=first["admin_token"], through="--token-fd")

    def enrol_fleet(self) -> None:
        """A single-use token for each serial; then every agent runs as a process of its own."""

        def enrol(craft: Craft) -> None:
            token = self.alice.sdx("device", "token", "--serial", craft.serial)
            craft.enrol(self.url, token["enrol_string"])
            self.alice.sdx("device", "tag", craft.serial, "fleet")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(enrol, self.craft))
        # Not in the pool: an agent ends with the thread that started it.
        for craft in self.craft:
            craft.start()
        boards = Counter(craft.hardware for craft in self.craft)
        fleet = " and ".join(f"{count} {board}" for board, count in boards.items())
        self._say(f"{len(self.craft)} craft enrolled ({fleet}); their agents run.")

    def release(self, version: str) -> None:
        """Build, sign by two people, publish, assign to the whole fleet."""
        self.build(version)
        self.publish(version)
        self.assign(version)
        self._say(f"{self.product}@{version}: built, signed by two people, published, assigned to the fleet.")

    def offer(self, version: str, revert_to: str) -> None:
        """Build, sign by two people, publish: a rollout may bring it now."""
        self.build(version, revert_to)
        self.publish(version)
        self._say(f"{self.product}@{version}: built, signed by two people, published.")

    def bring_back(self, stopped: Ended, version: str) -> Outcome:
        """Revert a rollout that was stopped, and have every craft prove that it runs `version`.

        Raises:
            DemoError: One does not, or none was hurt, or none spared.
        """
        before = self.rolling.touched(stopped.id)
        hurt, spared = sum(state == "rolled_back" for state in before.values()), len(self.craft) - len(before)
        if not hurt or not spared:
            raise DemoError(f"The broken release hurt {hurt} craft and spared {spared}.")
        self.rolling.revert(stopped.id, "the build for the new board is cut short")
        states = self.rolling.touched(stopped.id)
        touched = [craft for craft in self.craft if craft.serial in states]
        if set(states.values()) != {"reverted"}:
            raise DemoError(f"Not every craft was brought back: {states}")
        self.wait_for(version, "success", touched)
        proven = sum(self.runs(craft) == version for craft in self.craft)
        if proven != len(self.craft):
            raise DemoError(f"Only {proven} craft prove that they run {version}: {states}")
        return Outcome(hurt, len(touched), spared, proven)

    def build(self, version: str, revert_to: str = "") -> None:
        """Build a release of what lies in `payloads`, and sign it by two people.

        Args:
            version: Of the product; `payloads/VERSION-BOARD` is there where a board has another build.
            revert_to: The version that a craft may go back to after it.
        """
        bundle, words = self.bundle(version), [f"--component=params=file:payloads/{version}.param"]
        for board, name in COMPONENTS.items():
            own = f"payloads/{version}-{board}"
            folder = own if (self.folder / own).exists() else f"payloads/{version}"
            words += [f"--hardware={board}", f"--component={name}=directory:{folder}"]
            words += [f"--hardware={name}={board}", f"--health={name}=./check"]
        if revert_to:
            words += [f"--revert-to={self.product}@{revert_to}"]
        names = ("--product", self.product, "--version", version)
        self.alice.sdx("release", "build", *names, *words, "-o", bundle)
        for number, tools in enumerate(self.people.values(), 1):
            signer = f"ceremony/keys/{TEAM}-{number}.key"
            tools.sdx_with_passphrase("release", "sign", bundle, "--signer", signer, "--yes")

    def bundle(self, version: str) -> str:
        """The release's file."""
        return f"{self.product}-{version}.sdx"

    def publish(self, version: str) -> None:
        published = self.alice.sdx("release", "publish", self.bundle(version), "--yes")
        if published["state"] != "published":
            raise DemoError(f"{self.bundle(version)} was not published: {published}")

    def assign(self, version: str) -> None:
        self.alice.sdx("device", "assign", f"{self.product}@{version}", "--tag", "fleet", "--yes")

    def wait_for(self, version: str, result: str, which: Sequence[Craft] | None = None) -> int:
        """Wait until craft have ended their latest action with `result` and prove that they run `version`.

        Args:
            version: Of the product.
            result: As the hub knows it.
            which: All craft where None.

        Returns:
            The number of craft.

        Raises:
            DemoError: Not all of them did in time.
        """
        awaited = self.craft if which is None else which
        started = time.monotonic()
        proven: set[str] = set()
        told = -1
        while len(proven) < len(awaited):
            states = self.states()
            for craft in awaited:
                ended = craft.serial not in proven and states[craft.serial] == result
                if ended and self.runs(craft) == version:
                    proven.add(craft.serial)
            if len(proven) != told:
                told = len(proven)
                self._say(f"  {told} of {len(awaited)} craft: {result.replace('_', ' ')}, running {version}.")
            if len(proven) < len(awaited) and time.monotonic() - started > _WAIT_S:
                stuck = {craft.serial: craft.status() for craft in awaited if craft.serial not in proven}
                raise DemoError(f"After {_WAIT_S:.0f} s these craft are not there: {json.dumps(stuck, default=str)}")
        return len(proven)

    def states(self) -> dict[str, str]:
        """How far each craft's latest action is, by serial."""
        listed = self.alice.sdx("device", "list", "--tag", "fleet")
        return {device["serial"]: (device.get("action") or {}).get("state", "") for device in listed}

    def save(self, pids: Sequence[int]) -> None:
        """Leave what `sdx demo down` needs."""
        (self.folder / RUNNING).write_text(json.dumps({"url": self.url, "pids": list(pids)}))

    def close(self) -> None:
        """Stop the agents."""
        for craft in self.craft:
            craft.stop()
        (self.folder / RUNNING).unlink(missing_ok=True)

    def runs(self, craft: Craft) -> str:
        """The version that the craft's own signature vouches for, read from its slots as well."""
        proof = self.alice.sdx("device", "inventory", craft.serial)
        inventory = craft.proves(proof["payload"], proof["signature"])
        versions = {part.version for part in inventory.components if part.product == self.product}
        installed = craft.software / "VERSION"
        if versions == {v := installed.read_text().strip() if installed.exists() else ""}:
            return v
        return ""

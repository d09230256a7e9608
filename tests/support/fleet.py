"""A hub with its ceremony, the people who hold keys, and craft: what the tests of attacks and faults stand on.

The ceremony is held in memory (`tests.support.people`), imported as `sdx hub init` does, and served by the real
`sdx hub serve`.
"""

import asyncio
import base64
import hashlib
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, Signer, SSlibKey
from tuf.api.metadata import Metadata, Root, Targets

from firmware_schemas import canonical
from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX, EnrolRequest, envelope, parse_enrol_string
from firmware_schemas.release import ReleaseManifest
from sdx_hub.cli import hub_work
from sdx_hub.services.repositories.hub_init import add_online_key
from sdx_hub.settings import Settings, load_settings
from sdx_hub.trust import rotation
from sdx_hub.trust.ceremony import ONLINE_ROLES
from sdx_hub.trust.keys import PublicKey
from sdx_hub.trust.rotation import KeyChange
from tests.support.craft import HARDWARE, Craft
from tests.support.hub import SDX, HubProcess
from tests.support.people import People, Person, hold_ceremony, sign
from tests.support.publisher import Payload, Publisher

TEAM = "nav"
T = TypeVar("T")
FAST = {"SDX_POLL_INTERVAL_S": "1", "SDX_POLL_JITTER_S": "0", "SDX_FLEET_REFRESH_MS": "50"}


@dataclass
class Fleet:
    """Everything that a test may touch.

    Attributes:
        hub: The process.
        people: Holders of the offline keys.
        publisher: With an admin's token and the keys of team nav.
        admin_token: May do everything that the API can.
        releases: For fixtures to remember manifests in, by version.
    """

    folder: Path
    hub: HubProcess
    people: People
    publisher: Publisher
    admin_token: str
    image_root_sha256: str
    director_root_sha256: str
    releases: dict[str, ReleaseManifest] = field(default_factory=dict)
    _device_token: str = ""
    _newest: int = 0

    @property
    def url(self) -> str:
        return self.hub.url

    @property
    def team_signers(self) -> list[Signer]:
        return [person.signer for person in self.people[f"team-{TEAM}"]]

    @property
    def targets_signers(self) -> list[Signer]:
        return [person.signer for person in self.people["targets"]]

    @property
    def image_signers(self) -> dict[str, Signer]:
        """The image repository's online keys, as a thief of the data folder would have them."""
        return self._online("image")

    @property
    def director_signers(self) -> dict[str, Signer]:
        return self._online("director")

    @property
    def device_token(self) -> str:
        """The poll token of a device that exists for this alone."""
        if not self._device_token:
            self._device_token = self.enrol_key(Ed25519PrivateKey.generate(), "token-bearer")
        return self._device_token

    def client(self, token: str = "") -> httpx.Client:
        bearer = {"authorization": f"Bearer {token or self.admin_token}"}
        return httpx.Client(base_url=self.url, headers=bearer, timeout=60)

    def token(self, name: str, role: str) -> str:
        """A person's token."""
        with self.client() as client:
            made = client.post("/api/v1/tokens", json={"name": name, "role": role, "life_s": 3600})
            made.raise_for_status()
            return str(made.json()["token"])

    def enrol_string(self, serial: str | None = None) -> str:
        with self.client() as client:
            made = client.post("/api/v1/enrol-tokens", json={"serial": serial} if serial else {})
            made.raise_for_status()
            return str(made.json()["enrol_string"])

    def enrol_key(self, key: Ed25519PrivateKey, serial: str) -> str:
        """Enrol a key without an agent; return its poll token."""
        text = parse_enrol_string(self.enrol_string(serial))
        token = f"{DEVICE_TOKEN_PREFIX}{hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()}"
        request = EnrolRequest(
            device_key=key.public_key().public_bytes_raw().hex(),
            serial=serial,
            hardware=HARDWARE,
            token_sha256=hashlib.sha256(token.encode()).hexdigest(),
            image_root_sha256=text.image_root_sha256,
            director_root_sha256=text.director_root_sha256,
            enrol_token=text.secret,
        )
        payload = canonical.encode(request)
        sealed = envelope(payload, key.sign(payload))
        body = {"payload": sealed.payload, "signature": sealed.signature}
        httpx.post(f"{self.url}/device/v1/enrol", json=body, timeout=30).raise_for_status()
        return token

    def new_craft(self, state: Path, hub: str, serial: str = "") -> Craft:
        """A craft that enrolled through the real agent, which reaches the hub at `hub`."""
        craft = Craft(state, serial or f"craft-{hashlib.sha256(str(state).encode()).hexdigest()[:12]}")
        outcome = craft.enrol(hub, self.enrol_string(craft.serial))
        assert outcome.code == 0, outcome
        return craft

    def device_key(self, craft: Craft) -> Ed25519PrivateKey:
        key = load_pem_private_key((craft.state / "identity" / "device.key").read_bytes(), password=None)
        assert isinstance(key, Ed25519PrivateKey)
        return key

    def director_files_by_name(self, craft: Craft) -> dict[str, bytes]:
        """What the director says to a craft now, under the names that it asks for."""
        with self.client(craft.token) as client:
            base = f"/tuf/director/{craft.device_id}/metadata"

            def file(name: str) -> bytes:
                answer = client.get(f"{base}/{name}")
                answer.raise_for_status()
                return answer.content

            timestamp = file("timestamp.json")
            version = Metadata.from_bytes(timestamp).signed.snapshot_meta.version
            snapshot = file(f"{version}.snapshot.json")
            targets = Metadata.from_bytes(snapshot).signed.meta["targets.json"].version
            return {
                "timestamp.json": timestamp,
                f"{version}.snapshot.json": snapshot,
                f"{targets}.targets.json": file(f"{targets}.targets.json"),
            }

    def director_files(self, craft: Craft) -> dict[str, bytes]:
        """The same by role: `timestamp.json`, `snapshot.json`, `targets.json`."""
        found = self.director_files_by_name(craft)
        return {name if name == "timestamp.json" else name.partition(".")[2]: raw for name, raw in found.items()}

    def image_file(self, name: str) -> bytes:
        """A file of the image repository: `3.team-nav.json`, or the newest of a role: `team-nav`."""
        path = f"/tuf/image/metadata/{name}" if name.endswith(".json") else f"/api/v1/trust/image/{name}"
        answer = httpx.get(f"{self.url}{path}", timeout=30)
        answer.raise_for_status()
        return answer.content

    def image_timestamp(self) -> bytes:
        return self.image_file("timestamp.json")

    def publish_next(self) -> str:
        """Publish one more release of the product `mavsdk`; return its id."""
        self._newest += 1
        version = f"3.{self._newest}.0"
        files = {"check": b"#!/bin/sh\nexit 0\n", "VERSION": version.encode()}
        parts = [Payload("server", files, ("./check",)), Payload("params", f"RTL_ALT,{self._newest}\n".encode())]
        self.releases[version] = self.publisher.publish("mavsdk", version, parts)
        return f"mavsdk@{version}"

    def push(self, repository: str, *files: bytes) -> httpx.Response:
        """Bring metadata that people signed."""
        with self.client() as client:
            body = {"metadata": [base64.b64encode(raw).decode() for raw in files]}
            return client.post(f"/api/v1/trust/{repository}", json=body)

    def revoke_team_key(self, role: str, keyid: str) -> None:
        """The holders of the targets role take a key out of a team; the team's other two sign its metadata anew."""
        now = datetime.now(UTC)
        targets = Metadata[Targets].from_bytes(self.image_file("targets")).signed
        holders = self.people[role]
        owner = next(person for person in holders if person.keyid == keyid)
        newcomer = Person.named(f"{role}-newcomer")
        change = KeyChange(add=(newcomer.public,), drop=(owner.public.owner,))
        raw_targets = self.people.sign(rotation.next_targets(targets, role, change, now), "targets")
        team = Metadata[Targets].from_bytes(self.image_file(role)).signed
        stay = [person for person in holders if person.keyid != keyid]
        raw_team = sign(rotation.refreshed_team(team, now), stay)
        answer = self.push("image", raw_targets, raw_team)
        assert answer.status_code == 200, answer.text

    def rotate_online_keys(self, repository: str) -> None:
        """Replace every online key of a repository: made on the hub, named by a new root that people sign."""
        root = self._root(repository).signed
        for role in ONLINE_ROLES[repository]:
            public = in_thread(lambda role=role: self._new_online_key(repository, role))
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(public.key, role)
        root.version += 1
        holders = "root" if repository == "image" else "director"
        answer = self.push(repository, self.people.sign(Metadata(root), holders))
        assert answer.status_code == 200, answer.text

    @property
    def settings(self) -> Settings:
        """The hub's own."""
        return load_settings(self.hub.data, self.hub.environment)

    def doctor(self) -> int:
        """The exit code of `sdx hub doctor`."""
        command = [SDX, "hub", "doctor", "--data", str(self.hub.data)]
        return subprocess.run(command, check=False, env=self.hub.environment).returncode

    def restart_hub(self) -> None:
        """Start the hub again, on the port that it had."""
        self.hub.start()

    async def _new_online_key(self, repository: str, role: str) -> PublicKey:
        async with hub_work.opened(self.settings) as database:
            return await add_online_key(database, self.hub.data / "online", repository, role)

    def _root(self, repository: str) -> Metadata[Root]:
        answer = httpx.get(f"{self.url}/api/v1/trust/{repository}/root", timeout=30)
        answer.raise_for_status()
        return Metadata[Root].from_bytes(answer.content)

    def _online(self, repository: str) -> dict[str, Signer]:
        root = self._root(repository).signed
        return {role: self._stolen(root, role) for role in ONLINE_ROLES[repository]}

    def _stolen(self, root: Root, role: str) -> Signer:
        for file in (self.hub.data / "online").glob("*.key"):
            private = load_pem_private_key(file.read_bytes(), password=None)
            assert isinstance(private, Ed25519PrivateKey)
            keyid = SSlibKey.from_crypto(private.public_key()).keyid
            if keyid in root.roles[role].keyids:
                return CryptoSigner(private, root.keys[keyid])
        raise AssertionError(f"the hub has no key for {role}")


@contextmanager
def start_fleet(path: Path, **environment: str) -> Iterator[Fleet]:
    """A hub that has had its ceremony, and serves.

    Args:
        path: A new folder; the hub's data is in `hub` below it.
        environment: More `SDX_*` settings.
    """
    path.mkdir(parents=True, exist_ok=True)
    people = hold_ceremony(path / "ceremony", datetime.now(UTC), TEAM)
    settings = load_settings(path / "hub", environment)
    made = in_thread(lambda: hub_work.initialise(settings, path / "ceremony", "admin", timedelta(days=1)))
    hub = HubProcess(path / "hub", FAST | environment, workers=settings.workers)
    hub.start()
    token = made["admin_token"]
    signers = [person.signer for person in people[f"team-{TEAM}"]]
    try:
        yield Fleet(
            path,
            hub,
            people,
            Publisher(hub.url, token, signers, TEAM),
            token,
            made["image_root_sha256"],
            made["director_root_sha256"],
        )
    finally:
        hub.close()


def in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, also where an event loop runs already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()

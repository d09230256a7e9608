"""A hub that is a dictionary: real TUF metadata of a tiny ceremony, served without any of the hub's code.

The agent is tested against it alone: what the agent does must not depend on what the hub's authors had in mind. It
answers in the process (`StaticHub.link`), or over real HTTP (`serving`).
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, Root, Snapshot, Targets, Timestamp

from device_agent.core.errors import TransportError
from device_agent.enrolment import enrol
from device_agent.ports.clock import SystemClock
from device_agent.ports.home import Home
from device_agent.ports.hub import Answer, Stream
from device_agent.ports.storage import DiskStorage
from firmware_schemas.device_api import (
    ACTION_FIELD,
    DEVICE_FIELD,
    TIME_FIELD,
    EnrolString,
    Envelope,
    Report,
    ReportBatch,
    decode_enrolment,
    decode_report,
)
from firmware_schemas.release import ReleaseManifest, encode_manifest
from tests.support.craft import HARDWARE
from tests.support.forge import in_days, seal
from tests.support.publisher import Payload, targets_by_path

TEAM = "nav"
DEVICE = "d-0123456789abcdef0123"
Reply = tuple[int, dict[str, str], bytes]
_ROLES = ("root", "timestamp", "snapshot", "targets")


def manifest_of(product: str, counter: int, payloads: Sequence[Payload], **fields: Any) -> ReleaseManifest:
    """The manifest of release `counter`.0.0, for the test board unless said otherwise."""
    base: dict[str, Any] = {"hardware": (HARDWARE,), "release_counter": counter}
    parts = tuple(payload.component() for payload in payloads)
    return ReleaseManifest(product=product, version=f"{counter}.0.0", components=parts, **(base | fields))


@dataclass
class Keys:
    """One key for each top-level role of a repository; thresholds are one."""

    by_role: dict[str, CryptoSigner] = field(
        default_factory=lambda: {role: CryptoSigner.generate_ed25519() for role in _ROLES}
    )

    def root(self, version: int, expires: datetime) -> bytes:
        signed = Root(version=version, expires=expires, consistent_snapshot=True)
        for role, signer in self.by_role.items():
            signed.add_key(signer.public_key, role)
        return seal(signed, [self.by_role["root"]])


class StaticHub:
    """Image repository, director, blobs, polls and reports of one device.

    Attributes:
        files: Path to bytes; a test may change any of them.
        blobs: SHA-256 to the uncompressed payload.
        reports: What came, in order, duplicates dropped.
        asked: Method and path of every request.
        down: Whether to be unreachable.
        packs: Whether payloads travel compressed.
        now_s: What the director calls the time.
        life: Of the director's metadata.
        poll: Extra fields of the poll's answer.
    """

    def __init__(self) -> None:
        self.keys = {"image": Keys(), "director": Keys()}
        self.team = [CryptoSigner.generate_ed25519() for _ in range(2)]
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.reports: list[Report] = []
        self.asked: list[tuple[str, str]] = []
        self.down = False
        self.packs = True
        self.now_s = int(datetime.now(UTC).timestamp())
        self.life = timedelta(days=1)
        self.poll: dict[str, Any] = {}
        self.version = 0
        self._assigned = False
        self._bodies: set[str] = set()
        self._image_version = 0
        self._targets: dict[str, Any] = {}
        for repository in ("image", "director"):
            self.files[f"{self.base(repository)}1.root.json"] = self.keys[repository].root(1, in_days(365))
        self._delegate()
        self.sign_image()
        self.assign()

    def base(self, repository: str) -> str:
        return "/tuf/image/metadata/" if repository == "image" else f"/tuf/director/{DEVICE}/metadata/"

    @property
    def action(self) -> str:
        """The current action; empty where nothing is assigned."""
        return f"{DEVICE}.{self.version}" if self._assigned else ""

    def told(self) -> EnrolString:
        """What a person carries to the device."""
        digests = [hashlib.sha256(self.files[f"{self.base(r)}1.root.json"]).hexdigest() for r in ("image", "director")]
        return EnrolString("single-use", *digests)

    # -- publishing --------------------------------------------------------------------------------------------------

    def publish(self, product: str, counter: int, payloads: Sequence[Payload], **fields: Any) -> ReleaseManifest:
        manifest = manifest_of(product, counter, payloads, **fields)
        for raw in [encode_manifest(manifest), *(payload.raw() for payload in payloads)]:
            self.blobs[hashlib.sha256(raw).hexdigest()] = raw
        self._targets |= targets_by_path(TEAM, manifest)
        self.sign_image()
        return manifest

    def assign(self, *manifests: ReleaseManifest, action: str = "", **overrides: Any) -> str:
        """Have the director tell the device to run these releases; return the action."""
        targets: dict[str, Any] = {}
        for manifest in manifests:
            targets |= targets_by_path(TEAM, manifest)
        return self.instruct(targets, action=action, **overrides)

    def instruct(self, targets: Mapping[str, Any], *, action: str = "", version: int = 0, device: str = DEVICE) -> str:
        """Sign whatever is said for the device."""
        self.version = version or self.version + 1
        self._assigned = bool(targets)
        expires = (datetime.fromtimestamp(self.now_s, UTC) + self.life).replace(microsecond=0)
        fields = {DEVICE_FIELD: device, ACTION_FIELD: action or self.action}
        keys, base, number = self.keys["director"].by_role, self.base("director"), self.version
        signed = Targets(version=number, expires=expires, targets=dict(targets), unrecognized_fields=fields)
        snapshot = Snapshot(version=number, expires=expires, meta={"targets.json": MetaFile(number)})
        timestamp = Timestamp(
            version=number,
            expires=expires,
            snapshot_meta=MetaFile(number),
            unrecognized_fields={TIME_FIELD: self.now_s},
        )
        self.files[f"{base}{number}.targets.json"] = seal(signed, [keys["targets"]])
        self.files[f"{base}{number}.snapshot.json"] = seal(snapshot, [keys["snapshot"]])
        self.files[f"{base}timestamp.json"] = seal(timestamp, [keys["timestamp"]])
        return self.action

    def sign_image(self, version: int = 0) -> None:
        """New versions of team, snapshot and timestamp."""
        self._image_version = version or self._image_version + 1
        number, base, keys = self._image_version, self.base("image"), self.keys["image"].by_role
        expires = in_days(7)
        team = Targets(version=number, expires=expires, targets=dict(self._targets))
        self.files[f"{base}{number}.team-{TEAM}.json"] = seal(team, self.team)
        meta = {"targets.json": MetaFile(1), f"team-{TEAM}.json": MetaFile(number)}
        snapshot = Snapshot(version=number, expires=expires, meta=meta)
        self.files[f"{base}{number}.snapshot.json"] = seal(snapshot, [keys["snapshot"]])
        timestamp = Timestamp(version=number, expires=expires, snapshot_meta=MetaFile(number))
        self.files[f"{base}timestamp.json"] = seal(timestamp, [keys["timestamp"]])

    def rotate(self, repository: str, *roles: str) -> None:
        """A new root that replaces keys, signed by the same root key."""
        keys = self.keys[repository]
        for role in roles:
            keys.by_role[role] = CryptoSigner.generate_ed25519()
        number = sum(1 for path in self.files if path.startswith(self.base(repository)) and path.endswith("root.json"))
        self.files[f"{self.base(repository)}{number + 1}.root.json"] = keys.root(number + 1, in_days(365))

    def _delegate(self) -> None:
        keys = {signer.public_key.keyid: signer.public_key for signer in self.team}
        role = DelegatedRole(f"team-{TEAM}", list(keys), 2, terminating=True, paths=[f"{TEAM}/*/*/*"])
        targets = Targets(version=1, expires=in_days(365), delegations=Delegations(keys, {role.name: role}))
        self.files[f"{self.base('image')}1.targets.json"] = seal(targets, [self.keys["image"].by_role["targets"]])

    # -- answering ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.asked.append((method, path))
        if path == "/device/v1/poll":
            return self._polled(headers)
        if path == "/device/v1/reports":
            return 200, {}, self._reported(body)
        if path == "/device/v1/enrol":
            return 200, {}, self._enrolled(body)
        if path.startswith("/blobs/"):
            return self._blob(path.rpartition("/")[2], headers)
        raw = self.files.get(path)
        return (200, {}, raw) if raw is not None else (404, {}, b'{"code":"metadata_not_found"}')

    def _polled(self, headers: Mapping[str, str]) -> Reply:
        etag = f'"{self.version}"'
        known = {"sdx-poll-interval": "1", "etag": etag}
        if headers.get("if-none-match") == etag:
            return 304, known, b""
        said = {"desired_version": self.version, "action": self.action, "interval_s": 1, "jitter_s": 0}
        return 200, known, json.dumps(said | self.poll).encode()

    def _reported(self, body: bytes) -> bytes:
        receipts = []
        for envelope in msgspec.json.decode(body, type=ReportBatch).envelopes:
            report = decode_report(envelope.payload_bytes())
            status = "duplicate" if envelope.payload in self._bodies else "accepted"
            if status == "accepted":
                last = self.reports[-1].counter if self.reports else 0
                assert report.counter > last, f"counter {report.counter} after {last}"
                self._bodies.add(envelope.payload)
                self.reports.append(report)
            receipts.append({"counter": report.counter, "status": status})
        return json.dumps({"receipts": receipts}).encode()

    def _enrolled(self, body: bytes) -> bytes:
        decode_enrolment(msgspec.json.decode(body, type=Envelope).payload_bytes())
        roots = {
            f"{name}_root": base64.b64encode(self.files[f"{self.base(name)}1.root.json"]).decode()
            for name in ("image", "director")
        }
        return json.dumps({"device_id": DEVICE, "state": "accepted", "interval_s": 1} | roots).encode()

    def _blob(self, sha256: str, headers: Mapping[str, str]) -> Reply:
        raw = self.blobs.get(sha256)
        if raw is None:
            return 404, {}, b'{"code":"blob_not_found"}'
        packed = self.packs and "zstd" in headers.get("accept-encoding", "")
        content = zstandard.compress(raw) if packed else raw
        etag = f'"{sha256}+zstd"' if packed else f'"{sha256}"'
        known = {"etag": etag} | ({"content-encoding": "zstd"} if packed else {})
        wanted = headers.get("range", "")
        if wanted and headers.get("if-range") == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return 416, known | {"content-range": f"bytes */{len(content)}"}, b""
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return 206, known | {"content-range": span}, content[start:]
        return 200, known, content

    @property
    def link(self) -> "StaticLink":
        return StaticLink(self)

    def ended(self) -> list[tuple[str, str, str]]:
        """Action, result and code of every final result that came."""
        bodies = [msgspec.to_builtins(report.body) for report in self.reports]
        return [(body["action"], body["result"], body["code"]) for body in bodies if body["kind"] == "result"]

    def kinds(self) -> list[str]:
        return [msgspec.to_builtins(report.body)["kind"] for report in self.reports]


class StaticLink:
    """The hub in the same process, as the agent's port."""

    def __init__(self, hub: StaticHub) -> None:
        self._hub = hub

    def exchange(self, method: str, path: str, **more: Any) -> Answer:
        if self._hub.down:
            raise TransportError("The hub is down.")
        status, headers, body = self._hub.answer(method, path, more.get("headers") or {}, more.get("body") or b"")
        return Answer(status, headers, body)

    @contextmanager
    def stream(self, method: str, path: str, **more: Any) -> Iterator[Stream]:
        answer = self.exchange(method, path, **more)
        headers = {"content-length": str(len(answer.body)), **answer.headers}
        yield Stream(answer.status, headers, iter([answer.body] if answer.body else []))

    def close(self) -> None:
        return


def enrolled(hub: StaticHub, state: Path, url: str = "http://127.0.0.1:1", settings: str = "") -> Home:
    """A state folder that was enrolled at the hub."""
    home = Home(state)
    enrol(home, url, hub.told(), "craft-1", HARDWARE, storage=DiskStorage(), clock=SystemClock(), hub=hub.link)
    with home.settings.open("a") as file:
        file.write(settings)
    return home


@contextmanager
def serving(hub: StaticHub) -> Iterator[str]:
    """The hub over real HTTP; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            asked = {name.lower(): value for name, value in self.headers.items()}
            sent = self.rfile.read(length)
            down: Reply = (503, {}, b"")
            status, headers, body = down if hub.down else hub.answer(self.command, self.path, asked, sent)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            if status != 304:
                self.wfile.write(body)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

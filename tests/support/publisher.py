"""Publishing without the `sdx` command: the same HTTP calls with keys in memory, in tens of milliseconds.

The command itself is tested elsewhere; here it would only make a hundred set-ups slow.
"""

import base64
import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import zstandard
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from firmware_schemas.ids import counter_of_version
from firmware_schemas.limits import UPLOAD_CHUNK_BYTES
from firmware_schemas.release import Component, HealthCheck, ReleaseManifest, encode_manifest, targets_of
from tests.support.craft import HARDWARE

_SERIALIZER = JSONSerializer(compact=True)


@dataclass(frozen=True)
class Payload:
    """One component to publish: a folder as `{path: content}`, or a file's bytes.

    Attributes:
        kind: Another component type than the content suggests: bytes that claim to be a folder, say.
    """

    name: str
    content: dict[str, bytes] | bytes
    health: tuple[str, ...] = ()
    kind: str = ""

    @property
    def type(self) -> str:
        return self.kind or ("directory" if isinstance(self.content, dict) else "file")

    def raw(self) -> bytes:
        return canonical_tar(self.content) if isinstance(self.content, dict) else self.content

    def component(self) -> Component:
        raw = self.raw()
        health = HealthCheck(self.health, 10) if self.health else None
        return Component(self.name, self.type, hashlib.sha256(raw).hexdigest(), len(raw), health=health)


def canonical_tar(files: dict[str, bytes]) -> bytes:
    """The canonical form of a folder, written down anew from the format's description (docs/guides/publish.md)."""
    folders = {"/".join(parts[:end]) for parts in (name.split("/") for name in files) for end in range(1, len(parts))}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for name in sorted(folders | set(files)):
            entry = tarfile.TarInfo(name)
            if name in folders:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size = len(files[name])
                entry.mode = 0o755 if files[name].startswith(b"#!") else 0o644
                archive.addfile(entry, io.BytesIO(files[name]))
    return buffer.getvalue()


@dataclass
class Publisher:
    """Someone with a token and a team's keys.

    Attributes:
        hub: The hub's address.
        token: A person's token that may publish.
        signers: The team's signers; the first two sign.
    """

    hub: str
    token: str
    signers: Sequence[Signer]
    team: str = "nav"

    @property
    def role(self) -> str:
        return self.team if self.team == "fleet-config" else f"team-{self.team}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.hub, headers={"authorization": f"Bearer {self.token}"}, timeout=60)

    def manifest(self, product: str, version: str, payloads: Sequence[Payload], **fields: Any) -> ReleaseManifest:
        counter = counter_of_version(version)
        assert counter is not None
        base: dict[str, Any] = {"hardware": (HARDWARE,), "release_counter": counter}
        parts = tuple(payload.component() for payload in payloads)
        return ReleaseManifest(product=product, version=version, components=parts, **{**base, **fields})

    def upload(self, client: httpx.Client, raw: bytes) -> None:
        packed = zstandard.compress(raw)
        digest = hashlib.sha256(raw).hexdigest()
        body = {"sha256": digest, "length": len(packed), "encoding": "zstd", "decoded_length": len(raw)}
        opened = client.post("/api/v1/uploads", json=body)
        opened.raise_for_status()
        if opened.json().get("exists"):
            return
        path = f"/api/v1/uploads/{opened.json()['id']}"
        for offset in range(opened.json()["offset"], max(len(packed), 1), UPLOAD_CHUNK_BYTES):
            piece = packed[offset : offset + UPLOAD_CHUNK_BYTES]
            client.patch(path, content=piece, headers={"upload-offset": str(offset)}).raise_for_status()

    def current(self, client: httpx.Client) -> Metadata[Targets]:
        answer = client.get(f"/api/v1/trust/image/{self.role}")
        answer.raise_for_status()
        return Metadata[Targets].from_bytes(answer.content)

    def proposal(self, client: httpx.Client, manifest: ReleaseManifest, signers: Sequence[Signer]) -> bytes:
        """The team's next metadata with this release, signed by `signers`."""
        signed = self.current(client).signed
        signed.version += 1
        signed.expires = (datetime.now(UTC) + timedelta(days=90)).replace(microsecond=0)
        for target in targets_of(self.team, manifest):
            signed.targets[target.path] = target_file(target.path, target.length, target.sha256, target.custom)
        metadata = Metadata(signed)
        for index, signer in enumerate(signers):
            metadata.sign(signer, append=index > 0)
        return metadata.to_bytes(_SERIALIZER)

    def put(self, client: httpx.Client, manifest: ReleaseManifest, proposal: bytes) -> httpx.Response:
        body = {
            "manifest": base64.b64encode(encode_manifest(manifest)).decode(),
            "role": self.role,
            "metadata": base64.b64encode(proposal).decode(),
        }
        return client.put(f"/api/v1/releases/{manifest.product}@{manifest.version}", json=body)

    def publish(self, product: str, version: str, payloads: Sequence[Payload], **fields: Any) -> ReleaseManifest:
        """Upload, sign by two people, publish."""
        manifest = self.manifest(product, version, payloads, **fields)
        with self.client() as client:
            for payload in payloads:
                self.upload(client, payload.raw())
            self.upload(client, encode_manifest(manifest))
            answer = self.put(client, manifest, self.proposal(client, manifest, self.signers[:2]))
            assert answer.status_code == 200, answer.text
            assert answer.json()["state"] == "published", answer.text
        return manifest

    def assign(self, release: str, *devices: str) -> dict[str, Any]:
        with self.client() as client:
            answer = client.post("/api/v1/assignments", json={"release": release, "devices": list(devices)})
            answer.raise_for_status()
            done: dict[str, Any] = answer.json()
            return done


def target_file(path: str, length: int, sha256: str, custom: Any) -> TargetFile:
    fields = {"custom": msgspec.to_builtins(custom)}
    return TargetFile(length=length, hashes={"sha256": sha256}, path=path, unrecognized_fields=fields)


def targets_by_path(team: str, manifest: ReleaseManifest) -> dict[str, TargetFile]:
    """The release's targets as the director lists them."""
    return {t.path: target_file(t.path, t.length, t.sha256, t.custom) for t in targets_of(team, manifest)}

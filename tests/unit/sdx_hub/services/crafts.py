"""Crafts for the tests of services: a key, and what is signed with it."""

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import EnrolRequest, Envelope, Report, ReportBatch, ReportBody, envelope
from sdx_hub.domain.errors import NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.releases import Product, Release
from sdx_hub.services.devices.enrolment import device_id_of
from tests.unit.sdx_hub.services.conftest import START


@dataclass(frozen=True)
class Digests:
    image: str = "1" * 64
    director: str = "2" * 64


class FixedRoots:
    """The roots of a hub, by their digests."""

    async def root_with_digest(self, repository: str, sha256: str) -> bytes:
        if sha256 != getattr(Digests(), repository):
            raise NotFound("no such root")
        return f"{repository} root".encode()

    def root_digests(self) -> Digests:
        return Digests()


@dataclass
class Craft:
    serial: str = "S1"
    hardware: str = "rpi4"
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    token: str = field(default_factory=lambda: "sdxd_" + secrets.token_urlsafe(24))
    counter: int = 0

    @property
    def device_key(self) -> str:
        return self.key.public_key().public_bytes_raw().hex()

    @property
    def id(self) -> str:
        return device_id_of(self.device_key)

    @property
    def token_sha256(self) -> str:
        return hashlib.sha256(self.token.encode()).hexdigest()

    def seal(self, document: Any) -> Envelope:
        payload = canonical.encode(document)
        return envelope(payload, self.key.sign(payload))

    def enrolment(self, enrol_token: str = "", **changes: Any) -> Envelope:
        fields: dict[str, Any] = {
            "device_key": self.device_key,
            "serial": self.serial,
            "hardware": self.hardware,
            "token_sha256": self.token_sha256,
            "image_root_sha256": Digests().image,
            "director_root_sha256": Digests().director,
            "enrol_token": enrol_token,
            "agent_version": "0.1.0",
        }
        return self.seal(EnrolRequest(**{**fields, **changes}))

    def report(self, body: ReportBody, counter: int | None = None, device_id: str = "") -> Envelope:
        self.counter = counter if counter is not None else self.counter + 1
        return self.seal(Report(device_id or self.id, self.counter, 0, body))

    def batch(self, *bodies: ReportBody) -> ReportBatch:
        return ReportBatch(tuple(self.report(body) for body in bodies))


async def add_release(
    database: Database,
    product: str,
    version: str,
    manifest: bytes,
    state: str = "published",
    revert_counter: int | None = None,
    must_pass: bool = False,
) -> str:
    """A release's row as publishing leaves it."""
    counter = int(version.replace(".", ""))
    async with database.unit_of_work() as uow:
        if await uow.session.get(Product, product) is None:
            uow.session.add(Product(name=product, team_role="team-nav"))
            await uow.session.flush()
        uow.session.add(
            Release(
                id=f"{product}@{version}",
                product=product,
                version=version,
                team_role="team-nav",
                release_counter=counter,
                revert_counter=counter if revert_counter is None else revert_counter,
                must_pass=must_pass,
                manifest=manifest,
                state=state,
                created_by="paul",
                created_at=START,
            )
        )
        await uow.commit()
    return f"{product}@{version}"

"""A thousand devices without a thousand agents: each has its own key and poll token, enrolled over HTTP as a craft is.

They are preauthorised by key, enrol, and send one signed inventory, so that the hub wants nothing more of them.
"""

import hashlib
import secrets
from collections.abc import Sequence

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from bench.load import poll_request
from firmware_schemas import canonical
from firmware_schemas.device_api import (
    DEVICE_TOKEN_PREFIX,
    EnrolRequest,
    Envelope,
    InstalledComponent,
    InventoryReport,
    Report,
    envelope,
    parse_enrol_string,
)

INVENTORY = InventoryReport(
    (InstalledComponent("app", "file", "bench", "0.9.0", 9_000, hashlib.sha256(b"0.9.0").hexdigest()),),
    {"bench": 9_000},
    "bench",
    "bench",
)


class Device(Struct, frozen=True):
    id: str
    token: str

    def __repr__(self) -> str:
        return f"Device(id={self.id!r}, token=***)"


def _json(sealed: Envelope) -> dict[str, str]:
    return {"payload": sealed.payload, "signature": sealed.signature}


def enrol(hub: str, operator_token: str, count: int, hardware: str) -> list[Device]:
    """Preauthorise, enrol and take stock of so many devices."""
    operator = {"authorization": f"Bearer {operator_token}"}
    with httpx.Client(base_url=hub, timeout=60) as client:
        made = client.post("/api/v1/enrol-tokens", json={"life_s": 3600}, headers=operator).raise_for_status().json()
        roots = parse_enrol_string(made["enrol_string"])
        return [
            _enrol(
                client, operator, f"bench-{number:04}", hardware, (roots.image_root_sha256, roots.director_root_sha256)
            )
            for number in range(count)
        ]


def _enrol(
    client: httpx.Client, operator: dict[str, str], serial: str, hardware: str, roots: tuple[str, str]
) -> Device:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw().hex()
    token = DEVICE_TOKEN_PREFIX + secrets.token_urlsafe(32)
    client.post(
        "/api/v1/device-keys", json={"device_key": public, "serial": serial}, headers=operator
    ).raise_for_status()
    request = canonical.encode(
        EnrolRequest(public, serial, hardware, hashlib.sha256(token.encode()).hexdigest(), *roots)
    )
    answer = client.post("/device/v1/enrol", json=_json(envelope(request, key.sign(request)))).raise_for_status().json()
    if answer["state"] != "accepted":
        raise RuntimeError(f"The hub did not accept {serial}: {answer['state']}.")
    device = Device(answer["device_id"], token)
    stock = canonical.encode(Report(device.id, 1, 0, INVENTORY))
    body = {"envelopes": [_json(envelope(stock, key.sign(stock)))]}
    sent = client.post("/device/v1/reports", json=body, headers={"authorization": f"Bearer {token}"})
    if sent.raise_for_status().json()["receipts"][0]["status"] != "accepted":
        raise RuntimeError(f"The hub refused the inventory of {serial}: {sent.text}")
    return device


def polls(hub: str, devices: Sequence[Device]) -> list[bytes]:
    """What each device asks that has heard of everything so far."""
    with httpx.Client(base_url=hub, timeout=60) as client:
        found = []
        for device in devices:
            answer = client.get("/device/v1/poll", headers={"authorization": f"Bearer {device.token}"})
            version = int(answer.raise_for_status().headers["etag"].strip('"'))
            found.append(poll_request(device.token.encode(), version))
        return found

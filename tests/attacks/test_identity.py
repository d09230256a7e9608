"""Attacks on who says it: replays, forged claims, and somebody else's name."""

import base64
import json
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import (
    EnrolRequest,
    InstalledComponent,
    InventoryReport,
    Report,
    parse_enrol_string,
)
from tests.attacks.conftest import PRODUCT, Scene
from tests.support.craft import HARDWARE


def sealed(key: Ed25519PrivateKey, document: Any) -> dict[str, str]:
    payload = canonical.encode(document)
    return {
        "payload": base64.b64encode(payload).decode(),
        "signature": base64.b64encode(key.sign(payload)).decode(),
    }


def as_device(scene: Scene, token: str = "") -> httpx.Client:
    bearer = {"authorization": f"Bearer {token or scene.craft.token}"}
    return httpx.Client(base_url=scene.fleet.url, headers=bearer, timeout=30)


def hub_view(scene: Scene) -> dict[str, Any]:
    """What the hub believes of the craft, without the times that polling changes."""
    with scene.fleet.publisher.client() as client:
        shown = client.get(f"/api/v1/devices/{scene.craft.device_id}").json()
        shown["proof"] = client.get(f"/api/v1/devices/{scene.craft.device_id}/inventory").json()
        shown["events"] = client.get(f"/api/v1/devices/{scene.craft.device_id}/timeline").json()
    for field in ("last_seen_at", "last_seen"):
        shown.pop(field, None)
    return shown


def test_replayed_report(scene: Scene) -> None:
    """Every report that the craft ever sent is sent again: acknowledged as old, and without any effect."""
    batches = [json.loads(body) for path, body in scene.mitm.bodies if path == "/device/v1/reports"]
    assert batches, "the craft must have reported its installation"
    scene.assign_new()
    assert scene.craft.run_once().code == 0
    before, unchanged = hub_view(scene), scene.craft.unchanged()
    with as_device(scene) as client:
        for batch in batches:
            answer = client.post("/device/v1/reports", json=batch)
            assert answer.status_code == 200, answer.text
            assert {receipt["status"] for receipt in answer.json()["receipts"]} == {"duplicate"}
    assert hub_view(scene) == before
    assert scene.craft.unchanged() == unchanged


def test_replayed_report_with_an_old_counter(scene: Scene) -> None:
    """New content under a counter that was used is no duplicate: it is refused by its own code."""
    key = scene.fleet.device_key(scene.craft)
    before = hub_view(scene)
    report = Report(scene.craft.device_id, 1, 0, InventoryReport((), {}, "0", "boot"))
    with as_device(scene) as client:
        answer = client.post("/device/v1/reports", json={"envelopes": [sealed(key, report)]})
    assert [(r["status"], r["code"]) for r in answer.json()["receipts"]] == [("refused", "report_replayed")]
    assert hub_view(scene) == before


def test_report_in_another_devices_name(scene: Scene) -> None:
    """A craft's genuine envelope, sent with the token of another craft."""
    other = scene.fleet.new_craft(scene.craft.state.parent / "other", scene.fleet.url)
    batch = next(json.loads(body) for path, body in scene.mitm.bodies if path == "/device/v1/reports")
    before = hub_view(scene)
    with as_device(scene, other.token) as client:
        answer = client.post("/device/v1/reports", json=batch)
    assert {r["status"] for r in answer.json()["receipts"]} == {"refused"}
    assert {r["code"] for r in answer.json()["receipts"]} <= {"wrong_device", "bad_signature"}
    assert hub_view(scene) == before


def test_forged_inventory(scene: Scene) -> None:
    """Somebody with the poll token, but without the craft's key, claims that it runs something else."""
    lie = InstalledComponent("server", "directory", PRODUCT, "9.9.9", 9_009_009, "ab" * 32)
    report = Report(scene.craft.device_id, 10_000, 0, InventoryReport((lie,), {PRODUCT: 9_009_009}, "0", "boot"))
    before = hub_view(scene)
    with as_device(scene) as client:
        forged = client.post("/device/v1/reports", json={"envelopes": [sealed(Ed25519PrivateKey.generate(), report)]})
    assert [(r["status"], r["code"]) for r in forged.json()["receipts"]] == [("refused", "bad_signature")]
    assert hub_view(scene) == before
    # The counter of the forgery burned nothing: the craft's own next report still counts.
    scene.assign_new()
    assert scene.craft.run_once().code == 0
    assert {part["version"] for part in hub_view(scene)["components"]} == {"2.0.0"}


def enrolment(key: Ed25519PrivateKey, text: str, serial: str) -> dict[str, str]:
    parsed = parse_enrol_string(text)
    request = EnrolRequest(
        device_key=key.public_key().public_bytes_raw().hex(),
        serial=serial,
        hardware=HARDWARE,
        token_sha256="cd" * 32,
        image_root_sha256=parsed.image_root_sha256,
        director_root_sha256=parsed.director_root_sha256,
        enrol_token=parsed.secret,
    )
    return sealed(key, request)


def test_replayed_enrolment_by_another_key(scene: Scene) -> None:
    """The single-use token of a craft is used again, for an attacker's key."""
    text = scene.fleet.enrol_string("copied-1")
    with httpx.Client(base_url=scene.fleet.url) as client:
        first = client.post("/device/v1/enrol", json=enrolment(Ed25519PrivateKey.generate(), text, "copied-1"))
        assert first.status_code in {200, 201}, first.text
        second = client.post("/device/v1/enrol", json=enrolment(Ed25519PrivateKey.generate(), text, "copied-1"))
    assert second.status_code == 409, second.text
    assert second.json()["code"] == "enrolment_token_used" or second.json()["code"] == "enrol_token_used"


def test_replayed_enrolment_of_a_revoked_device(scene: Scene) -> None:
    """The very bytes of a craft's enrolment are sent again after it was revoked: it stays revoked."""
    body = next(body for path, body in scene.mitm.bodies if path == "/device/v1/enrol")
    with scene.fleet.publisher.client() as people:
        people.post(f"/api/v1/devices/{scene.craft.device_id}/revoke").raise_for_status()
    with httpx.Client(base_url=scene.fleet.url) as client:
        again = client.post("/device/v1/enrol", content=body, headers={"content-type": "application/json"})
    assert again.status_code == 403, again.text
    assert again.json()["code"] == "device_revoked"
    with as_device(scene) as client:
        assert client.get("/device/v1/poll").status_code in {401, 403}


def test_replayed_enrolment_changes_nothing(scene: Scene) -> None:
    """Sent again while all is well, it gives the same answer, which holds no secret, and has no effect."""
    body = next(body for path, body in scene.mitm.bodies if path == "/device/v1/enrol")
    before = hub_view(scene)
    with httpx.Client(base_url=scene.fleet.url) as client:
        again = client.post("/device/v1/enrol", content=body, headers={"content-type": "application/json"})
    assert again.status_code in {200, 201}
    assert again.json()["device_id"] == scene.craft.device_id
    assert "sdxd_" not in again.text
    assert hub_view(scene) == before
    scene.assign_new()
    assert scene.craft.run_once().code == 0


@pytest.mark.parametrize("path", ["timestamp.json", "1.root.json"])
def test_another_devices_director_is_not_readable(scene: Scene, path: str) -> None:
    other = scene.fleet.new_craft(scene.craft.state.parent / "other", scene.fleet.url)
    with as_device(scene, other.token) as client:
        answer = client.get(f"/tuf/director/{scene.craft.device_id}/metadata/{path}")
    assert answer.status_code == 403
    assert answer.json()["code"] == "wrong_device"

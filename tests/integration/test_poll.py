"""The poll through real HTTP: who is answered how, and that nothing else can be polled out of it."""

import hashlib

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import EnrolRequest, InventoryReport, Report, TokenReport, envelope, parse_enrol_string
from firmware_schemas.ids import DeviceId
from sdx_hub.services.devices.enrolment import device_id_of
from tests.support.craft import HARDWARE
from tests.support.fleet import Fleet
from tests.support.publisher import Payload

PROBLEM = "application/problem+json"


class Device:
    """A device without an agent."""

    def __init__(self, fleet: Fleet, serial: str) -> None:
        self.fleet = fleet
        self.key = Ed25519PrivateKey.generate()
        self.id: DeviceId = device_id_of(self.key.public_key().public_bytes_raw().hex())
        self.token = fleet.enrol_key(self.key, serial)
        self.counter = 0

    def poll(self, known: str = "", token: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer {token or self.token}"} | ({"if-none-match": known} if known else {})
        return httpx.get(f"{self.fleet.url}/device/v1/poll", headers=headers)

    def report(self, body: InventoryReport | TokenReport) -> httpx.Response:
        self.counter += 1
        payload = canonical.encode(Report(self.id, self.counter, 0, body))
        sealed = envelope(payload, self.key.sign(payload))
        envelopes = [{"payload": sealed.payload, "signature": sealed.signature}]
        headers = {"authorization": f"Bearer {self.token}"}
        answer = httpx.post(f"{self.fleet.url}/device/v1/reports", json={"envelopes": envelopes}, headers=headers)
        answer.raise_for_status()
        assert answer.json()["receipts"][0]["status"] == "accepted", answer.text
        return answer

    def send_inventory(self) -> None:
        self.report(InventoryReport((), {}, "0.1", "boot"))


@pytest.fixture(scope="module")
def device(fleet: Fleet) -> Device:
    made = Device(fleet, "polled-1")
    made.send_inventory()
    return made


def test_nothing_new_is_a_304_without_a_body(device: Device) -> None:
    answer = device.poll('"0"')
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == '"0"'
    assert answer.headers["sdx-poll-interval"] == "1"


@pytest.mark.parametrize("known", ["", '"1"', '"00"', "0", '"-1"', "*"])
def test_anything_else_is_answered_whole(device: Device, known: str) -> None:
    answer = device.poll(known)
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"0"'
    assert answer.headers["sdx-poll-interval"] == "1"
    assert answer.json() == {"desired_version": 0, "interval_s": 1, "jitter_s": 0}


def test_a_new_device_is_asked_for_its_inventory_until_it_comes(fleet: Fleet) -> None:
    fresh = Device(fleet, "polled-fresh")
    assert fresh.poll('"0"').json()["inventory"] is True
    fresh.send_inventory()
    assert fresh.poll('"0"').status_code == 304


def test_an_assignment_changes_the_answer(fleet: Fleet) -> None:
    device = Device(fleet, "polled-assigned")
    device.send_inventory()
    fleet.publisher.publish("polled", "1.0.0", [Payload("app", b"app")])
    assert fleet.publisher.assign("polled@1.0.0", device.id)["assigned"] == [device.id]
    answer = device.poll('"0"')
    assert answer.status_code == 200
    assert answer.json()["desired_version"] == 1
    assert answer.json()["action"] == f"{device.id}.1"
    assert device.poll(answer.headers["etag"]).status_code == 304


@pytest.mark.parametrize("token", ["sdxd_unknown", "sdx_x_y", "", "x" * 4000])
def test_a_wrong_token_is_a_problem_with_an_interval(fleet: Fleet, token: str) -> None:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(f"{fleet.url}/device/v1/poll", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_unknown" if token else "token_missing")
    assert answer.headers["content-type"] == PROBLEM
    assert answer.headers["sdx-poll-interval"] == "1"
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_revoked_device_is_refused_at_its_next_poll(fleet: Fleet) -> None:
    device = Device(fleet, "polled-revoked")
    assert device.poll().status_code == 200
    with fleet.client() as client:
        client.post("/api/v1/devices/polled-revoked/revoke").raise_for_status()
    for answer in (device.poll(), device.poll('"0"')):
        assert (answer.status_code, answer.json()["code"]) == (403, "device_revoked")
        assert answer.headers["sdx-poll-interval"] == "1"


def test_a_pending_device_waits_until_it_is_accepted(fleet: Fleet) -> None:
    key, token = Ed25519PrivateKey.generate(), "sdxd_pending"
    roots = parse_enrol_string(fleet.enrol_string())
    request = EnrolRequest(
        device_key=key.public_key().public_bytes_raw().hex(),
        serial="polled-pending",
        hardware=HARDWARE,
        token_sha256=hashlib.sha256(token.encode()).hexdigest(),
        image_root_sha256=roots.image_root_sha256,
        director_root_sha256=roots.director_root_sha256,
    )
    payload = canonical.encode(request)
    sealed = envelope(payload, key.sign(payload))
    body = {"payload": sealed.payload, "signature": sealed.signature}
    enrolled = httpx.post(f"{fleet.url}/device/v1/enrol", json=body)
    assert enrolled.json()["state"] == "pending"
    bearer = {"authorization": f"Bearer {token}"}
    refused = httpx.get(f"{fleet.url}/device/v1/poll", headers=bearer)
    assert (refused.status_code, refused.json()["code"]) == (403, "device_pending")
    with fleet.client() as client:
        assert client.post("/api/v1/devices/polled-pending/accept").json()["state"] == "accepted"
    assert httpx.get(f"{fleet.url}/device/v1/poll", headers=bearer).status_code == 200


def test_a_rotated_token_replaces_the_old_one_with_its_first_poll(fleet: Fleet) -> None:
    device = Device(fleet, "polled-rotated")
    device.send_inventory()
    following = "sdxd_following"
    device.report(TokenReport(hashlib.sha256(following.encode()).hexdigest()))
    assert device.poll().status_code == 200
    assert device.poll(token=following).status_code == 200
    assert device.poll().json()["code"] == "token_unknown"


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE"])
def test_a_poll_is_a_get(device: Device, method: str) -> None:
    answer = httpx.request(
        method, f"{device.fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {device.token}"}
    )
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"


def test_polls_are_counted_and_seen(fleet: Fleet) -> None:
    import time

    device = Device(fleet, "polled-seen")
    device.poll()
    with fleet.client() as client:
        end = time.monotonic() + 10
        while client.get("/api/v1/devices/polled-seen").json()["last_seen_at"] is None:
            assert time.monotonic() < end
            time.sleep(0.1)

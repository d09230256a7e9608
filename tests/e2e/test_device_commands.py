"""`sdx device` against the real hub, with a device that enrols and reports over HTTP."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import (
    DEVICE_TOKEN_PREFIX,
    EnrolRequest,
    InstalledComponent,
    InventoryReport,
    ProgressReport,
    Report,
    ReportBody,
    ResultReport,
    envelope,
)
from tests.support.craft import HARDWARE
from tests.support.fleet import Fleet, start_fleet
from tests.support.machine import Machine
from tests.support.mitm import Answer, Mitm, Request


class Device:
    """A device without an agent: enrols, polls, and signs what it is told to say."""

    def __init__(self, fleet: Fleet, serial: str) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.serial = serial
        self.public = self.key.public_key().public_bytes_raw().hex()
        self._fleet = fleet
        self._counter = 0
        self.token = ""

    def enrol(self) -> None:
        self.token = self._fleet.enrol_key(self.key, self.serial)

    def enrol_without_token(self) -> str:
        """The state that the hub answers with."""
        self.token = f"{DEVICE_TOKEN_PREFIX}{self.public}"
        request = EnrolRequest(
            device_key=self.public,
            serial=self.serial,
            hardware=HARDWARE,
            token_sha256=hashlib.sha256(self.token.encode()).hexdigest(),
            image_root_sha256=self._fleet.image_root_sha256,
            director_root_sha256=self._fleet.director_root_sha256,
        )
        payload = canonical.encode(request)
        sealed = envelope(payload, self.key.sign(payload))
        body = {"payload": sealed.payload, "signature": sealed.signature}
        return str(httpx.post(f"{self._fleet.url}/device/v1/enrol", json=body, timeout=30).json()["state"])

    def poll(self) -> httpx.Response:
        return httpx.get(
            f"{self._fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {self.token}"}, timeout=30
        )

    def says(self, identity: str, body: ReportBody) -> None:
        self._counter += 1
        payload = canonical.encode(Report(identity, self._counter, 0, body))
        sealed = envelope(payload, self.key.sign(payload))
        answer = httpx.post(
            f"{self._fleet.url}/device/v1/reports",
            json={"envelopes": [{"payload": sealed.payload, "signature": sealed.signature}]},
            headers={"authorization": f"Bearer {self.token}"},
            timeout=30,
        )
        assert answer.json()["receipts"][0]["status"] == "accepted", answer.text


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        fleet.publish_next()
        yield fleet


@pytest.fixture(scope="module")
def operator(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    token = fleet.token("olga", "operator")
    return Machine(tmp_path_factory.mktemp("olga"), {"SDX_HUB": fleet.url, "SDX_TOKEN": token})


def test_a_devices_life_from_token_to_revocation(fleet: Fleet, operator: Machine) -> None:
    made = operator.sdx("device", "token", "--serial", "craft-01")
    assert made["enrol_string"].startswith("sdxe_")
    assert made["enrol_string"].endswith(f".{fleet.image_root_sha256}.{fleet.director_root_sha256}")

    device = Device(fleet, "craft-01")
    device.enrol()
    (listed,) = operator.sdx("device", "list")
    identity = listed["id"]
    assert (listed["serial"], listed["state"]) == ("craft-01", "accepted")
    assert operator.sdx("device", "why", "craft-01")["verdict"] == "not_assigned"

    assert operator.sdx("device", "tag", "craft-01", "field")["tags"] == ["field"]
    again = operator.run("device", "tag", "craft-01", "field")
    assert (again.code, again.error) == (3, "nothing_to_do")
    assert operator.sdx("device", "set", "craft-01", "pilot=olga", "site=north")["attributes"]["site"] == "north"
    assert operator.sdx("device", "set", "craft-01", "pilot=")["attributes"] == {"site": "north"}
    assert [item["id"] for item in operator.sdx("device", "list", "--tag", "field")] == [identity]
    assert operator.sdx("device", "list", "--tag", "other") == []

    assert operator.run("device", "assign", "mavsdk@3.1.0", "--tag", "field").error == "confirmation_missing"
    assert operator.sdx("device", "assign", "mavsdk@3.1.0", "craft-01", "--dry-run")["dry_run"] is True
    assert operator.sdx("device", "assign", "mavsdk@3.1.0", "--tag", "field", "--yes")["assigned"] == [identity]
    assert operator.run("device", "assign", "mavsdk@3.1.0", "craft-01", "--yes").code == 3
    nobody = operator.run("device", "assign", "mavsdk@3.1.0", "nobody", "--yes")
    assert (nobody.code, nobody.error) == (1, "all_refused")
    assert nobody.json["error"]["extra"]["refused"][0]["device"] == "nobody"

    assert device.poll().status_code == 200
    answer = operator.sdx("device", "why", "craft-01")
    assert answer["verdict"] in {"updating", "waiting"}
    action = answer["action"]["id"]
    device.says(identity, ProgressReport(action, "READY"))
    answer = operator.sdx("device", "why", identity)
    assert (answer["verdict"], "flight gate" in answer["reasons"][0] + answer["reasons"][1]) == ("waiting", True)

    device.says(identity, _inventory(fleet))
    device.says(identity, ResultReport(action, "success", {"mavsdk": "3.1.0"}))
    assert operator.sdx("device", "why", "craft-01")["verdict"] == "up_to_date"
    shown = operator.sdx("device", "show", "craft-01")
    assert shown["action"]["state"] == "success"
    assert {part["version"] for part in shown["components"]} == {"3.1.0"}
    signed = operator.sdx("device", "inventory", "craft-01")
    assert {"payload", "signature", "received_at"} <= signed.keys()
    kinds = [event["kind"] for event in operator.sdx("device", "timeline", "craft-01")]
    assert {"progress", "result", "desired"} <= set(kinds)
    assert [item["serial"] for item in operator.sdx("device", "list", "--product", "mavsdk", "--version", "3.1.0")] == [
        "craft-01"
    ]

    assert operator.sdx("device", "untag", "craft-01", "field")["tags"] == []
    assert operator.run("device", "revoke", "craft-01").error == "confirmation_missing"
    assert device.poll().status_code in {200, 304}
    assert operator.sdx("device", "revoke", "craft-01", "--yes")[0]["state"] == "revoked"
    refused = device.poll()
    assert (refused.status_code, refused.json()["code"]) == (403, "device_revoked")
    assert operator.run("device", "revoke", identity, "--yes").code == 3
    assert operator.sdx("device", "why", identity)["verdict"] == "revoked"


def _inventory(fleet: Fleet) -> InventoryReport:
    manifest = fleet.releases["3.1.0"]
    parts = tuple(
        InstalledComponent(part.name, part.type, "mavsdk", "3.1.0", manifest.release_counter, part.sha256)
        for part in sorted(manifest.components, key=lambda part: part.name)
    )
    return InventoryReport(parts, {"mavsdk": manifest.release_counter}, "test", "boot")


def test_two_people_set_attributes_at_the_same_time(fleet: Fleet, operator: Machine) -> None:
    """Whoever comes second has not seen what came first, and replaces nothing."""
    Device(fleet, "craft-04").enrol()

    def somebody_is_faster(request: Request) -> Answer | None:
        if request.method == "PUT" and request.path.endswith("/attributes"):
            mitm.rules.clear()
            operator.sdx("device", "set", "craft-04", "battery=new")
        return None

    with Mitm(fleet.url) as mitm:
        mitm.lie(somebody_is_faster)
        slow = Machine(operator.folder / "slow", operator.environment | {"SDX_HUB": mitm.url})
        refused = slow.run("device", "set", "craft-04", "site=south")
    assert (refused.code, refused.error) == (1, "precondition_failed")
    assert operator.sdx("device", "show", "craft-04")["attributes"] == {"battery": "new"}


def test_a_key_from_the_factory_is_let_in(fleet: Fleet, operator: Machine) -> None:
    device = Device(fleet, "craft-02")
    operator.sdx("device", "allow-key", device.public, "--serial", "craft-02")
    assert device.enrol_without_token() == "accepted"
    assert device.poll().status_code == 200
    wrong = operator.run("device", "allow-key", "no key")
    assert wrong.code in {1, 2}


def test_a_stranger_waits_until_a_person_accepts_it(fleet: Fleet, operator: Machine) -> None:
    device = Device(fleet, "craft-03")
    assert device.enrol_without_token() == "pending"
    assert device.poll().status_code == 403
    answer = operator.sdx("device", "why", "craft-03")
    assert answer["verdict"] == "pending"
    assert device.public in answer["changes"][0], "the key to compare is shown"
    dry = operator.run("device", "accept", "craft-03", "--dry-run")
    assert device.public in dry.stderr
    assert device.poll().status_code == 403
    assert operator.sdx("device", "accept", "craft-03", "--yes")[0]["state"] == "accepted"
    assert device.poll().status_code == 200
    assert operator.run("device", "accept", "craft-03", "--yes").code == 3


def test_who_may_not_operate(fleet: Fleet, tmp_path: Path) -> None:
    viewer = Machine(tmp_path, {"SDX_HUB": fleet.url, "SDX_TOKEN": fleet.token("vera", "viewer")})
    assert isinstance(viewer.sdx("device", "list"), list)
    craft = fleet.new_craft(tmp_path / "craft", fleet.url).device_id
    for words in (["token"], ["assign", "mavsdk@3.1.0", craft, "--yes"], ["revoke", craft, "--yes"]):
        refused = viewer.run("device", *words)
        assert (refused.code, refused.error) == (4, "not_allowed")
    stranger = Machine(tmp_path, {"SDX_HUB": fleet.url, "SDX_TOKEN": "sdx_nobody"})
    outcome: Any = stranger.run("device", "list")
    assert outcome.code == 4


def test_a_token_is_replaced_on_demand(fleet: Fleet, operator: Machine, tmp_path: Path) -> None:
    craft = fleet.new_craft(tmp_path / "craft", fleet.url)
    assert operator.sdx("device", "rotate-token", craft.device_id, "--dry-run")[0]["dry_run"] is True
    assert operator.sdx("device", "show", craft.device_id)["rotation_wanted"] is False
    asked = operator.sdx("device", "rotate-token", craft.device_id)
    assert asked == [{"id": craft.device_id, "serial": craft.serial, "rotation_wanted": True}]
    old = craft.token
    craft.run_once()
    assert craft.token != old


def test_people_read_text(fleet: Fleet, operator: Machine) -> None:
    """Without --json: the same commands speak in sentences and tables."""
    for words in (["list"], ["show", "craft-02"], ["why", "craft-02"], ["timeline", "craft-02"]):
        command, where = operator.command("device", *words)
        done = subprocess.run(command[:-1], **where, capture_output=True, text=True, check=True)
        assert "craft-02" in done.stdout or words[0] == "timeline"
        assert not done.stdout.startswith("{")

"""The hub is killed (SIGKILL) at random moments while it is published to, polled and reported to.

Whatever it acknowledged must be there afterwards, and its audit chain must hold. On SQLite, the embedded default.
"""

import hashlib
import random
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import ProgressReport, Report, envelope
from tests.support.craft import Craft
from tests.support.fleet import Fleet, start_fleet
from tests.support.publisher import Payload

ROUNDS = 50


@dataclass
class Acknowledged:
    """What the hub has said yes to, so far."""

    releases: dict[str, str] = field(default_factory=dict)
    """Release id to the digest of its payload."""
    blobs: dict[str, int] = field(default_factory=dict)
    reports: list[dict[str, str]] = field(default_factory=list)
    desired: int = 0


class Traffic(threading.Thread):
    """A publisher, an operator and a device, all at work until the hub dies under them."""

    def __init__(self, fleet: Fleet, craft: Craft, key: Ed25519PrivateKey, yes: Acknowledged, number: int) -> None:
        super().__init__(daemon=True)
        self._fleet, self._craft, self._key, self._yes = fleet, craft, key, yes
        self._number = number
        self.surprise: BaseException | None = None

    def run(self) -> None:
        try:
            step = 0
            while True:
                step += 1
                self._report()
                self._poll()
                self._publish(step)
        except httpx.TransportError:
            return  # The hub is dead: that was the plan.
        except BaseException as error:
            self.surprise = error

    def _publish(self, step: int) -> None:
        publisher = self._fleet.publisher
        version = f"1.{self._number}.{step}"
        payload = Payload("server", f"payload {version}".encode() * 500)
        manifest = publisher.publish("steady", version, [payload])
        self._yes.blobs[manifest.components[0].sha256] = manifest.components[0].length
        self._yes.releases[f"steady@{version}"] = manifest.components[0].sha256
        answer = publisher.assign(f"steady@{version}", self._craft.device_id)
        assert answer["assigned"], answer

    def _poll(self) -> None:
        answer = httpx.get(f"{self._fleet.url}/device/v1/poll", headers=self._bearer(), timeout=20)
        assert answer.status_code == 200, answer.text
        desired = answer.json()["desired_version"]
        assert desired >= self._yes.desired, "a desired state that a device was told of must never be taken back"
        self._yes.desired = desired

    def _report(self) -> None:
        counter = 1000 + len(self._yes.reports) + 1000 * self._number
        report = Report(self._craft.device_id, counter, 0, ProgressReport("x.1", "DOWNLOADING"))
        payload = canonical.encode(report)
        sealed = envelope(payload, self._key.sign(payload))
        body: dict[str, Any] = {"envelopes": [{"payload": sealed.payload, "signature": sealed.signature}]}
        answer = httpx.post(f"{self._fleet.url}/device/v1/reports", json=body, headers=self._bearer(), timeout=20)
        assert answer.status_code == 200, answer.text
        assert answer.json()["receipts"][0]["status"] == "accepted", answer.text
        self._yes.reports.append(body["envelopes"][0])

    def _bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._craft.token}"}


def check(fleet: Fleet, craft: Craft, yes: Acknowledged, releases: list[str], reports: list[dict[str, str]]) -> None:
    bearer = {"authorization": f"Bearer {craft.token}"}
    with httpx.Client(base_url=fleet.url, headers=bearer, timeout=30) as device, fleet.publisher.client() as people:
        for release in releases:
            shown = people.get(f"/api/v1/releases/{release}")
            assert shown.status_code == 200, (release, shown.text)
            assert shown.json()["state"] == "published"
            blob = device.get(f"/blobs/{yes.releases[release]}")
            assert hashlib.sha256(blob.content).hexdigest() == yes.releases[release]
        for sealed in reports:
            again = device.post("/device/v1/reports", json={"envelopes": [sealed]})
            assert again.json()["receipts"][0]["status"] == "duplicate", again.text
        if yes.desired:
            assert device.get("/device/v1/poll").json()["desired_version"] >= yes.desired


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hub_killed_at_random_moments_loses_nothing_acknowledged(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}, {ROUNDS} kills")
    moments = random.Random(seed)  # noqa: S311 - moments, not secrets
    with start_fleet(tmp_path / "fleet") as fleet:
        craft = fleet.new_craft(tmp_path / "craft", fleet.url)
        key = fleet.device_key(craft)
        yes = Acknowledged()
        for number in range(1, ROUNDS + 1):
            releases, reports = len(yes.releases), len(yes.reports)
            traffic = Traffic(fleet, craft, key, yes, number)
            traffic.start()
            traffic.join(moments.uniform(0.02, 0.6))
            fleet.hub.kill()
            traffic.join(30)
            assert not traffic.is_alive()
            assert traffic.surprise is None, f"round {number}: {traffic.surprise!r}"
            fleet.restart_hub()
            check(fleet, craft, yes, list(yes.releases)[releases:], yes.reports[reports:])
        check(fleet, craft, yes, list(yes.releases), yes.reports)
        assert fleet.doctor() == 0
        print(f"{len(yes.releases)} releases, {len(yes.reports)} reports and {ROUNDS} kills: nothing lost")
        assert len(yes.reports) >= ROUNDS / 2
        assert len(yes.releases) >= ROUNDS / 4

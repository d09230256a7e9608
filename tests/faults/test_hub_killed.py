"""The hub is killed (SIGKILL) at random moments while it is published to, polled and reported to.

Whatever it acknowledged must be there afterwards, and its audit chain must hold. On SQLite, the embedded default.
The three kinds of traffic run at the same time, so that a kill meets all of them; what it met is counted and printed.
"""

import hashlib
import random
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import ProgressReport, Report, envelope
from firmware_schemas.release import encode_manifest
from tests.support.craft import Craft
from tests.support.fleet import Fleet, start_fleet
from tests.support.publisher import Payload

ROUNDS = 50
PARTS = 3
"""Pieces in which a payload is sent."""
ANSWERS = 14
"""A kill comes after so many answers to the publisher at the most: one release takes eleven."""


@dataclass
class Acknowledged:
    """What the hub has said yes to, so far."""

    releases: dict[str, str] = field(default_factory=dict)
    """Release id to the digest of its payload."""
    uploads: dict[str, int] = field(default_factory=dict)
    """Unfinished upload to the bytes that the hub says it has."""
    reports: list[dict[str, str]] = field(default_factory=list)
    desired: int = 0
    assigned: str = ""


class Traffic(threading.Thread, ABC):
    """Someone at work until the hub dies.

    Attributes:
        unanswered_since: When the request was made whose answer is awaited; 0.0 between two requests.
        answers: So many came.
    """

    def __init__(self, fleet: Fleet, craft: Craft, yes: Acknowledged, number: int) -> None:
        super().__init__(daemon=True)
        self.fleet, self.craft, self.yes, self.number = fleet, craft, yes, number
        self.unanswered_since = 0.0
        self.answers = 0
        self.surprise: BaseException | None = None

    @abstractmethod
    def work(self, client: httpx.Client, step: int) -> None: ...

    def run(self) -> None:
        step = 0
        try:
            with httpx.Client(base_url=self.fleet.url, timeout=20) as client:
                client.event_hooks = {"request": [self._asks], "response": [self._answered]}
                while True:
                    step += 1
                    self.work(client, step)
        except httpx.TransportError:
            return  # The hub is dead: that was the plan.
        except BaseException as error:
            self.surprise = error

    def _asks(self, _request: httpx.Request) -> None:
        self.unanswered_since = time.monotonic()

    def _answered(self, _response: httpx.Response) -> None:
        self.unanswered_since = 0.0
        self.answers += 1


class Publishing(Traffic):
    """A publisher and an operator: upload in pieces, publish, assign."""

    def work(self, client: httpx.Client, step: int) -> None:
        publisher = self.fleet.publisher
        client.headers["authorization"] = f"Bearer {publisher.token}"
        version = f"1.{self.number}.{step}"
        payload = Payload("server", secrets.token_bytes(30_000))
        manifest = publisher.manifest("steady", version, [payload])
        self._upload(client, payload.raw())
        publisher.upload(client, encode_manifest(manifest))
        answer = publisher.put(client, manifest, publisher.proposal(client, manifest, publisher.signers[:2]))
        assert answer.json()["state"] == "published", answer.text
        self.yes.releases[f"steady@{version}"] = manifest.components[0].sha256
        body = {"release": f"steady@{version}", "devices": [self.craft.device_id]}
        assigned = client.post("/api/v1/assignments", json=body).raise_for_status().json()
        assert assigned["assigned"], assigned
        self.yes.assigned = f"steady@{version}"

    def _upload(self, client: httpx.Client, raw: bytes) -> None:
        packed = zstandard.compress(raw)
        digest = hashlib.sha256(raw).hexdigest()
        body = {"sha256": digest, "length": len(packed), "encoding": "zstd", "decoded_length": len(raw)}
        upload = client.post("/api/v1/uploads", json=body).raise_for_status().json()["id"]
        piece = len(packed) // PARTS + 1
        for offset in range(0, len(packed), piece):
            headers = {"upload-offset": str(offset)}
            chunk = packed[offset : offset + piece]
            got = client.patch(f"/api/v1/uploads/{upload}", content=chunk, headers=headers).raise_for_status().json()
            self.yes.uploads[upload] = got["offset"]
        assert got["complete"], got
        del self.yes.uploads[upload]


class Polling(Traffic):
    def work(self, client: httpx.Client, step: int) -> None:
        answer = client.get("/device/v1/poll", headers={"authorization": f"Bearer {self.craft.token}"})
        assert answer.status_code == 200, answer.text
        desired = answer.json()["desired_version"]
        assert desired >= self.yes.desired, "a desired state that a device was told of must never be taken back"
        self.yes.desired = desired
        time.sleep(0.001)


class Reporting(Traffic):
    def __init__(self, fleet: Fleet, craft: Craft, yes: Acknowledged, number: int, key: Ed25519PrivateKey) -> None:
        super().__init__(fleet, craft, yes, number)
        self._key = key

    def work(self, client: httpx.Client, step: int) -> None:
        report = Report(self.craft.device_id, 10_000 * self.number + step, 0, ProgressReport("x.1", "DOWNLOADING"))
        payload = canonical.encode(report)
        sealed = envelope(payload, self._key.sign(payload))
        body: dict[str, Any] = {"envelopes": [{"payload": sealed.payload, "signature": sealed.signature}]}
        headers = {"authorization": f"Bearer {self.craft.token}"}
        answer = client.post("/device/v1/reports", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.json()["receipts"][0]["status"] == "accepted", answer.text
        self.yes.reports.append(body["envelopes"][0])
        time.sleep(0.01)


def wait_for_answers(traffic: Traffic, answers: int) -> None:
    """A moment that says something on a fast and on a slow machine alike."""
    end = time.monotonic() + 30
    while traffic.answers < answers and traffic.is_alive() and time.monotonic() < end:
        time.sleep(0.001)


def check(fleet: Fleet, craft: Craft, yes: Acknowledged, releases: list[str], reports: list[dict[str, str]]) -> None:
    bearer = {"authorization": f"Bearer {craft.token}"}
    with httpx.Client(base_url=fleet.url, headers=bearer, timeout=30) as device, fleet.publisher.client() as people:
        for release in releases:
            shown = people.get(f"/api/v1/releases/{release}")
            assert shown.status_code == 200, (release, shown.text)
            assert shown.json()["state"] == "published"
            blob = device.get(f"/blobs/{yes.releases[release]}")
            assert hashlib.sha256(blob.content).hexdigest() == yes.releases[release]
        for start in range(0, len(reports), 50):
            batch = reports[start : start + 50]
            again = device.post("/device/v1/reports", json={"envelopes": batch}).raise_for_status().json()
            assert [receipt["status"] for receipt in again["receipts"]] == ["duplicate"] * len(batch), again
        for upload, offset in yes.uploads.items():
            found = people.get(f"/api/v1/uploads/{upload}").raise_for_status().json()
            assert found.get("complete") or found["offset"] >= offset, (found, offset)
        assert device.get("/device/v1/poll").json()["desired_version"] >= yes.desired
        if yes.assigned:
            wanted = people.get(f"/api/v1/devices/{craft.device_id}").json()["assignments"]["steady"]
            # The next assignment may have been made without a word about it: newer is right, older is lost.
            assert _number(wanted) >= _number(yes.assigned), (wanted, yes.assigned)


def _number(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.partition("@")[2].split("."))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hub_killed_at_random_moments_loses_nothing_acknowledged(tmp_path: Path, say: Callable[[str], None]) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}, {ROUNDS} kills")
    moments = random.Random(seed)
    met: Counter[str] = Counter()
    with start_fleet(tmp_path / "fleet") as fleet:
        craft = fleet.new_craft(tmp_path / "craft", fleet.url)
        key = fleet.device_key(craft)
        yes = Acknowledged()
        for number in range(1, ROUNDS + 1):
            releases, reports = len(yes.releases), len(yes.reports)
            traffic: list[Traffic] = [
                Publishing(fleet, craft, yes, number),
                Polling(fleet, craft, yes, number),
                Reporting(fleet, craft, yes, number, key),
            ]
            for one in traffic:
                one.start()
            wait_for_answers(traffic[0], moments.randint(0, ANSWERS))
            time.sleep(moments.uniform(0.0, 0.03))
            killed_at = time.monotonic()
            fleet.hub.kill()
            for one in traffic:
                one.join(30)
                assert not one.is_alive()
                assert one.surprise is None, f"round {number}: {one.surprise!r}"
                met[type(one).__name__] += 0.0 < one.unanswered_since < killed_at
            fleet.restart_hub()
            check(fleet, craft, yes, list(yes.releases)[releases:], yes.reports[reports:])
            yes.uploads.clear()
        check(fleet, craft, yes, list(yes.releases), yes.reports)
        assert fleet.doctor() == 0
        say(f"{len(yes.releases)} releases, {len(yes.reports)} reports and {ROUNDS} kills of the hub: nothing lost")
        say(f"requests under way at a kill: {dict(met)}")
        assert min(met.values()) >= ROUNDS / 25, met  # A poll is answered out of memory: few kills meet one.
        assert len(yes.reports) >= ROUNDS / 2
        assert len(yes.releases) >= ROUNDS / 8

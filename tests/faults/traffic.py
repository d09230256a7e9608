"""A publisher, an operator and craft at work while something breaks, and a book of what the hub has said yes to."""

import hashlib
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import ProgressReport, Report, envelope
from firmware_schemas.release import encode_manifest
from tests.support.craft import Craft
from tests.support.fleet import Fleet
from tests.support.publisher import Payload

PARTS = 3
"""Pieces in which a payload is sent."""
TRY_AGAIN_S = 0.1
"""How long somebody waits who was turned away with 503; people and craft wait longer."""


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
    """Someone at work until told to stop, or until the hub dies.

    Attributes:
        unanswered_since: When the request was made whose answer is awaited; 0.0 between two requests.
        answers: So many came.
        done: So many pieces of work were done, each with all of its answers.
        statuses: How often each status came.
        turned_away: How often each code of a 503 came.
        lost: The connection that the hub's death took away.
        surprise: What should not have happened.
    """

    def __init__(self, fleet: Fleet, craft: Craft, yes: Acknowledged, number: int) -> None:
        super().__init__(daemon=True)
        self.fleet, self.craft, self.yes, self.number = fleet, craft, yes, number
        self.unanswered_since = 0.0
        self.answers = self.done = 0
        self.statuses: Counter[int] = Counter()
        self.turned_away: Counter[str] = Counter()
        self.lost: httpx.TransportError | None = None
        self.surprise: BaseException | None = None
        self._stopping = threading.Event()

    @abstractmethod
    def work(self, client: httpx.Client, step: int) -> None: ...

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        step = 0
        try:
            with httpx.Client(base_url=self.fleet.url, timeout=90) as client:
                client.event_hooks = {"request": [self._asks], "response": [self._answered]}
                while not self._stopping.is_set():
                    step += 1
                    try:
                        self.work(client, step)
                        self.done += 1
                    except httpx.HTTPStatusError as error:
                        self._turned_away(error.response)
        except httpx.TransportError as error:
            self.lost = error
        except BaseException as error:
            self.surprise = error

    def _asks(self, _request: httpx.Request) -> None:
        self.unanswered_since = time.monotonic()

    def _answered(self, response: httpx.Response) -> None:
        self.unanswered_since = 0.0
        self.answers += 1
        self.statuses[response.status_code] += 1

    def _turned_away(self, response: httpx.Response) -> None:
        assert response.status_code == 503, (response.request.url.path, response.status_code, response.text)
        assert int(response.headers["retry-after"]) > 0
        self.turned_away[response.json()["code"]] += 1
        self._stopping.wait(TRY_AGAIN_S)


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
        assert answer.raise_for_status().json()["state"] == "published", answer.text
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
    """A craft that asks again and again.

    Attributes:
        in_order: One hub never takes back what it has told a craft. Of two replicas, one may know it a moment later.
    """

    in_order = True

    def work(self, client: httpx.Client, step: int) -> None:
        answer = client.get("/device/v1/poll", headers={"authorization": f"Bearer {self.craft.token}"})
        desired = answer.raise_for_status().json()["desired_version"]
        assert desired >= self.yes.desired or not self.in_order, "a desired state was taken back"
        self.yes.desired = max(desired, self.yes.desired)
        time.sleep(0.001)


class Reporting(Traffic):
    """A craft that reports, each report once for as long as nobody has acknowledged it."""

    def __init__(self, fleet: Fleet, craft: Craft, yes: Acknowledged, number: int, key: Ed25519PrivateKey) -> None:
        super().__init__(fleet, craft, yes, number)
        self._key = key

    def work(self, client: httpx.Client, step: int) -> None:
        report = Report(self.craft.device_id, 10_000 * self.number + step, 0, ProgressReport("x.1", "DOWNLOADING"))
        payload = canonical.encode(report)
        sealed = envelope(payload, self._key.sign(payload))
        body: dict[str, Any] = {"envelopes": [{"payload": sealed.payload, "signature": sealed.signature}]}
        headers = {"authorization": f"Bearer {self.craft.token}"}
        answer = client.post("/device/v1/reports", json=body, headers=headers).raise_for_status()
        # A proxy that lost the answer sends the report to another replica, which has it already.
        assert answer.json()["receipts"][0]["status"] in {"accepted", "duplicate"}, answer.text
        self.yes.reports.append(body["envelopes"][0])
        time.sleep(0.01)


def check(fleet: Fleet, craft: Craft, yes: Acknowledged, releases: list[str], reports: list[dict[str, str]]) -> None:
    """All that was acknowledged is there."""
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

"""What is too much gets a clear word, on every side: the publisher's command, the hub, and the agent.

|                        | publisher             | hub                          | agent                        |
| a compression bomb     | decompression_bomb    | decompression_bomb           | attacks/test_bytes.py        |
| a path that climbs     | archive_climbs        | (does not unpack)            | attacks/test_archives.py     |
| a symlink out of a tar | archive_link_escapes  | (does not unpack)            | attacks/test_archives.py     |
| a name of 64 KB        | archive_name_too_long | invalid_manifest, bad_input  | attacks/test_archives.py     |
| 100 MB of metadata     | metadata_too_large    | too_large                    | metadata_too_large, per role |
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bench.processes import memory_kib, tree
from firmware_schemas.ids import counter_of_version
from firmware_schemas.release import Component, ReleaseManifest, encode_manifest
from tests.faults.test_limits_publisher import LONG, MB, bomb
from tests.support.fleet import Fleet, start_fleet
from tests.support.publisher import Payload


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("limits")) as running:
        running.publisher.publish("small", "1.0.0", [Payload("app", b"small")])
        yield running


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.headers["content-type"].startswith("application/problem+json"), answer.text[:300]
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text[:300]
    assert len(answer.content) < 4096, "an answer does not repeat what was too long"


def test_hub_stops_a_compression_bomb(fleet: Fleet) -> None:
    packed = bomb(1 << 30)
    digest = hashlib.sha256(b"x" * MB).hexdigest()
    with fleet.publisher.client() as client:
        body = {"sha256": digest, "length": len(packed), "encoding": "zstd", "decoded_length": MB}
        before = hub_peak_mb(fleet)
        opened = client.post("/api/v1/uploads", json=body).raise_for_status().json()
        answer = client.patch(
            f"/api/v1/uploads/{opened['id']}", content=packed, headers={"upload-offset": str(opened["offset"])}
        )
        refused(answer, 422, "decompression_bomb")
        assert client.get(f"/blobs/{digest}").status_code == 404
        assert hub_peak_mb(fleet) < before + 32, "the bomb went off in memory"


def test_hub_opens_no_upload_that_is_larger_than_its_content(fleet: Fleet) -> None:
    with fleet.publisher.client() as client:
        body = {"sha256": "a" * 64, "length": MB, "encoding": "zstd", "decoded_length": 1000}
        refused(client.post("/api/v1/uploads", json=body), 413, "too_large")


def test_hub_takes_no_manifest_with_a_long_name(fleet: Fleet) -> None:
    digest = hashlib.sha256(b"small").hexdigest()
    counter = counter_of_version("9.0.0")
    assert counter is not None
    part = Component(LONG, "file", digest, 5)
    manifest = ReleaseManifest(product="small", version="9.0.0", release_counter=counter, components=(part,))
    with fleet.publisher.client() as client:
        fleet.publisher.upload(client, encode_manifest(manifest))
        refused(fleet.publisher.put(client, manifest, b"{}"), 400, "invalid_manifest")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/device-keys", {"device_key": "a" * 64, "serial": LONG}),
        ("POST", "/api/v1/tokens", {"name": LONG, "role": "viewer", "life_s": 60}),
        ("POST", "/api/v1/assignments", {"release": LONG, "devices": [LONG]}),
        ("POST", "/api/v1/enrol-tokens", {"serial": LONG}),
    ],
)
def test_hub_takes_no_long_name(fleet: Fleet, method: str, path: str, body: dict[str, Any]) -> None:
    with httpx.Client(base_url=fleet.url, headers={"authorization": f"Bearer {fleet.admin_token}"}) as client:
        answer = client.request(method, path, json=body)
    assert answer.status_code in {400, 404}, answer.text[:300]
    refused(answer, answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/v1/releases/small@2.0.0"),
        ("POST", "/api/v1/trust/image"),
        ("POST", "/device/v1/enrol"),
        ("POST", "/device/v1/reports"),
    ],
)
def test_hub_takes_no_metadata_of_100_mb(fleet: Fleet, method: str, path: str, *, announced: bool) -> None:
    """Neither when the length is announced, nor when it comes in chunks without an end in sight."""

    def body() -> Iterator[bytes]:
        yield b'{"metadata":["'
        for _ in range(100):
            yield b"A" * MB

    token = fleet.device_token if path == "/device/v1/reports" else fleet.admin_token
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    if announced:
        headers["content-length"] = str(100 * MB + 14)
    before = hub_peak_mb(fleet)
    with httpx.Client(base_url=fleet.url, timeout=60) as client:
        try:
            answer = client.request(method, path, content=body(), headers=headers)
        except httpx.TransportError:
            # The hub answered and hung up while we were still sending: HTTP/1.1 lets a client miss that answer.
            answer = None
        if answer is not None:
            refused(answer, 413, "too_large")
        assert client.get("/livez").status_code == 200
    assert hub_peak_mb(fleet) < before + 32, "the body was read into memory"


def hub_peak_mb(fleet: Fleet) -> float:
    return max(memory_kib(pid, "VmHWM") for pid in tree(fleet.hub.pid)) / 1024

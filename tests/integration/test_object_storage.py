"""A hub whose payloads are in S3: what people and craft see when that store is there, away, wrong or slow."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from sdx_hub.demo.servers.seaweed import SeaweedServer
from tests.support.fleet import Fleet, start_fleet
from tests.support.hub import SDX
from tests.support.publisher import Payload
from tests.support.s3 import Bucket, fresh_bucket

SMALL = os.urandom(100_000)
LARGE = os.urandom(40 * 1024 * 1024)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """One of our own: it is killed here."""
    own = SeaweedServer(tmp_path_factory.mktemp("s3"))
    try:
        own.start()
        yield own
    finally:
        own.kill()


@pytest.fixture(scope="module")
def fleet(server: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub"), **fresh_bucket(server).settings) as running:
        running.publisher.publish("stored", "1.0.0", [Payload("small", SMALL), Payload("large", LARGE)])
        yield running


def url_of(fleet: Fleet, content: bytes) -> str:
    return f"{fleet.url}/blobs/{hashlib.sha256(content).hexdigest()}"


def headers(fleet: Fleet) -> dict[str, str]:
    return {"authorization": f"Bearer {fleet.device_token}", "accept-encoding": "identity"}


def unavailable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "blob_store_unavailable"), answer.text
    assert int(answer.headers["retry-after"]) > 0


def test_a_craft_installs_a_release_that_lies_in_s3_alone(fleet: Fleet, tmp_path: Path) -> None:
    release = fleet.publish_next()
    craft = fleet.new_craft(tmp_path / "craft", fleet.url)
    fleet.publisher.assign(release, craft.device_id)
    outcome = craft.run_once()
    assert outcome.code == 0, outcome.log
    assert release.partition("@")[2] in str(craft.status())
    assert not (fleet.hub.data / "blobs").exists()
    assert list((fleet.hub.data / "uploads").iterdir()) == []


def test_while_the_store_is_away_downloads_wait_and_everything_else_goes_on(
    fleet: Fleet, server: SeaweedServer
) -> None:
    url = url_of(fleet, SMALL)
    assert httpx.get(url, headers=headers(fleet)).content == SMALL
    server.kill()
    try:
        unavailable(httpx.get(url, headers=headers(fleet), timeout=60))
        unavailable(httpx.get(f"{fleet.url}/blobs/{'0' * 64}", headers=headers(fleet), timeout=60))
        assert fleet.hub.ready()
        assert httpx.get(f"{fleet.url}/device/v1/poll", headers=headers(fleet)).status_code in {200, 204, 304}
    finally:
        server.start()
    assert httpx.get(url, headers=headers(fleet), timeout=60).content == SMALL


def test_a_download_that_breaks_is_no_whole_answer_and_goes_on_where_it_broke(
    fleet: Fleet, server: SeaweedServer
) -> None:
    url, got = url_of(fleet, LARGE), b""
    try:
        with (
            pytest.raises(httpx.RemoteProtocolError),
            httpx.stream("GET", url, headers=headers(fleet), timeout=60) as answer,
        ):
            assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(LARGE)))
            for piece in answer.iter_raw():
                if not got:
                    server.kill()
                got += piece
    finally:
        server.start()
    assert 0 < len(got) < len(LARGE)
    more = {"range": f"bytes={len(got)}-", "if-range": f'"{hashlib.sha256(LARGE).hexdigest()}"'}
    rest = httpx.get(url, headers=headers(fleet) | more, timeout=60)
    assert rest.status_code == 206
    assert got + rest.content == LARGE


def test_an_upload_goes_on_where_it_was_acknowledged(fleet: Fleet, server: SeaweedServer) -> None:
    """The store and then the hub are killed, and the replica that goes on has none of the first one's files."""
    raw = os.urandom(5_000_000)
    order = {"sha256": hashlib.sha256(raw).hexdigest(), "length": len(raw), "decoded_length": len(raw)}

    def append(client: httpx.Client, upload: str, start: int, end: int) -> httpx.Response:
        piece = {"content": raw[start:end], "headers": {"upload-offset": str(start)}}
        return client.patch(f"/api/v1/uploads/{upload}", **piece)  # type: ignore[arg-type]

    with fleet.client() as client:
        upload = client.post("/api/v1/uploads", json=order).json()["id"]
        assert append(client, upload, 0, 2_000_000).json()["offset"] == 2_000_000
        server.kill()
        try:
            unavailable(append(client, upload, 2_000_000, 4_000_000))
        finally:
            server.start()
    fleet.hub.kill()
    assert list((fleet.hub.data / "uploads").iterdir()) == []
    fleet.restart_hub()
    with fleet.client() as client:
        assert client.post("/api/v1/uploads", json=order).json() == {"id": upload, "offset": 2_000_000}
        assert append(client, upload, 2_000_000, 5_000_000).json() == {"offset": 5_000_000, "complete": True}
    assert httpx.get(url_of(fleet, raw), headers=headers(fleet)).content == raw


def test_a_store_that_never_answers_is_given_up(fleet: Fleet, server: SeaweedServer) -> None:
    server.pause()
    try:
        unavailable(httpx.get(url_of(fleet, SMALL), headers=headers(fleet), timeout=60))
    finally:
        server.resume()
    assert httpx.get(url_of(fleet, SMALL), headers=headers(fleet), timeout=60).content == SMALL


def serve(fleet: Fleet, settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A second hub on the same data, for as long as it takes to refuse."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SDX_")}
    command = [SDX, "hub", "serve", "--data", str(fleet.hub.data), "--port", "0", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment | settings, timeout=60)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"SDX_BLOB_SECRET": "not-the-secret"}, "blob_store_denied"),
        ({"SDX_BLOB_KEY_ID": "nobody"}, "blob_store_denied"),
        ({"SDX_BLOB_URL": "s3://nobodys?endpoint={endpoint}"}, "blob_store_denied"),
        ({"SDX_BLOB_URL": "s3://sdx/a?endpoint={endpoint}&key=x"}, "blob_url_invalid"),
        ({"SDX_BLOB_SECRET": ""}, "blob_url_invalid"),
    ],
    ids=["secret", "key", "bucket", "option", "no secret"],
)
def test_a_store_that_refuses_the_hub_keeps_it_from_starting(
    fleet: Fleet, server: SeaweedServer, wrong: dict[str, str], code: str
) -> None:
    bucket = fresh_bucket(server)
    settings = bucket.settings | {name: value.format(endpoint=server.endpoint) for name, value in wrong.items()}
    outcome = serve(fleet, settings)
    assert outcome.returncode != 0
    assert f'"{code}"' in outcome.stdout + outcome.stderr, outcome
    assert bucket.secret not in outcome.stdout + outcome.stderr


def test_a_bucket_that_does_not_exist_keeps_the_hub_from_starting(fleet: Fleet, tmp_path: Path) -> None:
    """Who may see all buckets is told that there is none; others are told that it is not theirs."""
    own = SeaweedServer(tmp_path / "s3", options=("-s3.config=",))
    try:
        own.start()
        outcome = serve(fleet, Bucket(own.url.replace("//sdx/", "//none/"), own.key_id, own.secret).settings)
    finally:
        own.kill()
    assert '"blob_bucket_missing"' in outcome.stdout + outcome.stderr, outcome


def test_a_hub_starts_while_the_store_is_away_and_needs_no_hand_when_it_is_back(
    fleet: Fleet, server: SeaweedServer
) -> None:
    fleet.hub.stop()
    server.kill()
    try:
        fleet.restart_hub()
        assert "blob_store_unavailable_at_start" in fleet.hub.text()
        unavailable(httpx.get(url_of(fleet, SMALL), headers=headers(fleet), timeout=60))
    finally:
        server.start()
    assert httpx.get(url_of(fleet, SMALL), headers=headers(fleet), timeout=60).content == SMALL
    assert server.secret not in fleet.hub.text()

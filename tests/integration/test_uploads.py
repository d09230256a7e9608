"""Uploads through HTTP: resumed at any byte, refused when they are not what they said."""

import hashlib
import os
from collections.abc import Iterator

import httpx
import pytest
import zstandard

from tests.support.fleet import Fleet, start_fleet
from tests.support.s3 import settings_on


@pytest.fixture(scope="module", params=["folder", "s3"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub"), **settings_on(request)) as running:
        yield running


def begin(
    client: httpx.Client, raw: bytes, encoding: str = "identity", packed: bytes | None = None
) -> dict[str, object]:
    body = {
        "sha256": hashlib.sha256(raw).hexdigest(),
        "length": len(packed if packed is not None else raw),
        "encoding": encoding,
        "decoded_length": len(raw),
    }
    answer = client.post("/api/v1/uploads", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def append(client: httpx.Client, upload: object, offset: int, piece: bytes) -> httpx.Response:
    return client.patch(f"/api/v1/uploads/{upload}", content=piece, headers={"upload-offset": str(offset)})


@pytest.mark.parametrize("encoding", ["identity", "zstd"])
def test_an_upload_in_pieces_is_there_whole(fleet: Fleet, encoding: str) -> None:
    raw = os.urandom(3000) + f"{encoding}".encode()
    packed = raw if encoding == "identity" else zstandard.compress(raw)
    with fleet.client() as client:
        begun = begin(client, raw, encoding, packed)
        path = f"/api/v1/uploads/{begun['id']}"
        assert begun["offset"] == 0
        first = append(client, begun["id"], 0, packed[:1000])
        assert first.json() == {"offset": 1000, "complete": False}
        assert first.headers["upload-offset"] == "1000"
        # Whoever begins again is told where to go on; so are HEAD and GET.
        assert begin(client, raw, encoding, packed) == {"id": begun["id"], "offset": 1000}
        assert client.head(path).headers["upload-offset"] == "1000"
        assert client.get(path).json() == {"offset": 1000, "complete": False}
        last = append(client, begun["id"], 1000, packed[1000:])
        assert last.json() == {"offset": len(packed), "complete": True}
        assert begin(client, raw, encoding, packed) == {"exists": True}
        got = client.get(f"/blobs/{hashlib.sha256(raw).hexdigest()}", headers={"accept-encoding": "identity"})
        assert got.content == raw


def test_a_piece_at_the_wrong_place_says_where_to_go_on(fleet: Fleet) -> None:
    raw = os.urandom(100)
    with fleet.client() as client:
        begun = begin(client, raw)
        append(client, begun["id"], 0, raw[:40])
        wrong = append(client, begun["id"], 10, raw[10:])
        assert (wrong.status_code, wrong.json()["code"], wrong.json()["offset"]) == (409, "offset_mismatch", 40)
        assert append(client, begun["id"], 40, raw[40:]).json()["complete"]


def test_an_upload_survives_a_kill_of_the_hub(fleet: Fleet) -> None:
    raw = os.urandom(5000)
    with fleet.client() as client:
        begun = begin(client, raw)
        append(client, begun["id"], 0, raw[:2500])
    fleet.hub.kill()
    fleet.restart_hub()
    with fleet.client() as client:
        assert begin(client, raw) == {"id": begun["id"], "offset": 2500}
        assert append(client, begun["id"], 2500, raw[2500:]).json()["complete"]


def test_other_content_than_announced_is_refused(fleet: Fleet) -> None:
    raw = os.urandom(100)
    with fleet.client() as client:
        begun = begin(client, raw)
        refused = append(client, begun["id"], 0, b"x" * 100)
        assert (refused.status_code, refused.json()["code"]) == (422, "payload_digest_mismatch")
        assert client.get(f"/blobs/{hashlib.sha256(raw).hexdigest()}").status_code == 404


def test_more_than_announced_is_refused(fleet: Fleet) -> None:
    raw = os.urandom(100)
    with fleet.client() as client:
        begun = begin(client, raw)
        refused = append(client, begun["id"], 0, raw + b"more")
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")


def test_a_piece_without_an_offset_is_refused(fleet: Fleet) -> None:
    with fleet.client() as client:
        begun = begin(client, os.urandom(10))
        refused = client.patch(f"/api/v1/uploads/{begun['id']}", content=b"x")
        assert (refused.status_code, refused.json()["code"]) == (400, "bad_input")


def test_an_upload_is_its_owners(fleet: Fleet) -> None:
    with fleet.client() as mine, fleet.client(fleet.token("somebody", "publisher")) as other:
        begun = begin(mine, os.urandom(10))
        refused = append(other, begun["id"], 0, b"x")
        assert (refused.status_code, refused.json()["code"]) == (404, "upload_not_found")

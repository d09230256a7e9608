"""`/blobs/{sha256}` as download tools and the agent use it: HEAD, ranges, conditions, compression."""

import hashlib
import http.client
import os
from collections.abc import Iterator

import httpx
import pytest
import zstandard

from tests.support.fleet import Fleet, start_fleet
from tests.support.publisher import Payload
from tests.support.s3 import settings_on

CONTENT = b"".join(f"line {number}\n".encode() for number in range(60_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"{SHA256}"'
PACKED_ETAG = f'"{SHA256}+zstd"'
PATH = f"/blobs/{SHA256}"


@pytest.fixture(scope="module", params=["folder", "s3"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub"), **settings_on(request)) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def published(fleet: Fleet) -> None:
    fleet.publisher.publish("blobs", "1.0.0", [Payload("app", CONTENT)])


def ask(fleet: Fleet, method: str = "GET", path: str = PATH, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Without a library that decompresses or adds headers by itself."""
    connection = http.client.HTTPConnection("127.0.0.1", fleet.hub.port, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers={"authorization": f"Bearer {fleet.device_token}"} | sent)
    answer = connection.getresponse()
    body = answer.read()
    found = {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return answer.status, found, body


def test_get_gives_the_payload(fleet: Fleet) -> None:
    status, headers, body = ask(fleet)
    assert (status, body) == (200, CONTENT)
    assert headers["etag"] == ETAG
    assert headers["content-length"] == str(len(CONTENT))
    assert headers["accept-ranges"] == "bytes"
    assert headers["vary"] == "accept-encoding"
    assert "content-encoding" not in headers
    assert "immutable" in headers["cache-control"]
    assert "private" in headers["cache-control"]


def test_head_gives_the_same_headers_without_a_body(fleet: Fleet) -> None:
    status, headers, body = ask(fleet, "HEAD")
    assert (status, body) == (200, b"")
    assert (headers["etag"], headers["content-length"]) == (ETAG, str(len(CONTENT)))


def test_head_ignores_a_range(fleet: Fleet) -> None:
    status, headers, _ = ask(fleet, "HEAD", range="bytes=0-9")
    assert (status, headers["content-length"]) == (200, str(len(CONTENT)))


@pytest.mark.parametrize(
    ("range_", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=1000-", 1000, len(CONTENT)),
        ("bytes=-7", len(CONTENT) - 7, len(CONTENT)),
        (f"bytes=-{10 * len(CONTENT)}", 0, len(CONTENT)),
        (f"bytes=5-{10 * len(CONTENT)}", 5, len(CONTENT)),
        (f"bytes={len(CONTENT) - 1}-", len(CONTENT) - 1, len(CONTENT)),
        ("BYTES=2-3", 2, 4),
    ],
)
def test_a_range_gives_exactly_these_bytes(fleet: Fleet, range_: str, start: int, end: int) -> None:
    status, headers, body = ask(fleet, range=range_)
    assert status == 206
    assert body == CONTENT[start:end]
    assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert headers["content-length"] == str(end - start)
    assert headers["etag"] == ETAG


@pytest.mark.parametrize("range_", ["bytes=0-1,5-6", "bytes=9-2", "bytes=-", "lines=0-1", "bytes=a-b", "bytes=1-2-3"])
def test_a_range_that_is_none_is_ignored(fleet: Fleet, range_: str) -> None:
    status, _, body = ask(fleet, range=range_)
    assert (status, body) == (200, CONTENT)


@pytest.mark.parametrize("range_", [f"bytes={len(CONTENT)}-", "bytes=999999999-", "bytes=-0"])
def test_a_range_beyond_the_end_is_a_416(fleet: Fleet, range_: str) -> None:
    status, headers, body = ask(fleet, range=range_)
    assert status == 416
    assert headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert headers["content-type"] == "application/problem+json"
    assert b'"range_not_satisfiable"' in body


def test_if_range_continues_the_same_representation_only(fleet: Fleet) -> None:
    assert ask(fleet, range="bytes=10-19", if_range=ETAG)[2] == CONTENT[10:20]
    for other in ('"0"', PACKED_ETAG, f"W/{ETAG}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        status, _, body = ask(fleet, range="bytes=10-19", if_range=other)
        assert (status, body) == (200, CONTENT), other


@pytest.mark.parametrize("known", [ETAG, f'"x", {ETAG}', f"W/{ETAG}", "*"])
def test_a_known_payload_is_a_304(fleet: Fleet, known: str) -> None:
    status, headers, body = ask(fleet, if_none_match=known)
    assert (status, body, headers["etag"]) == (304, b"", ETAG)
    # A range does not matter then: RFC 9110, 13.2.2.
    assert ask(fleet, if_none_match=known, range="bytes=0-1")[0] == 304


def test_zstd_for_those_who_take_it(fleet: Fleet) -> None:
    status, headers, body = ask(fleet, accept_encoding="gzip, zstd")
    assert status == 200
    assert (headers["content-encoding"], headers["etag"]) == ("zstd", PACKED_ETAG)
    assert int(headers["content-length"]) == len(body) < len(CONTENT) // 2
    assert zstandard.ZstdDecompressor().decompress(body, max_output_size=len(CONTENT)) == CONTENT
    assert ask(fleet, "HEAD", accept_encoding="zstd")[1]["content-length"] == str(len(body))
    assert ask(fleet, accept_encoding="zstd", if_none_match=PACKED_ETAG)[0] == 304
    # The other representation is another entity: its tag says nothing about this one.
    assert ask(fleet, accept_encoding="zstd", if_none_match=ETAG)[0] == 200


def test_a_compressed_download_is_resumed_in_compressed_bytes(fleet: Fleet) -> None:
    whole = ask(fleet, accept_encoding="zstd")[2]
    status, headers, rest = ask(fleet, accept_encoding="zstd", range="bytes=100-", if_range=PACKED_ETAG)
    assert (status, headers["content-encoding"]) == (206, "zstd")
    assert whole[:100] + rest == whole


@pytest.mark.parametrize("accept", ["gzip", "zstd;q=0", "identity", "br, zstd; q=0.000"])
def test_identity_for_everybody_else(fleet: Fleet, accept: str) -> None:
    status, headers, body = ask(fleet, accept_encoding=accept)
    assert (status, body) == (200, CONTENT)
    assert "content-encoding" not in headers


def test_an_empty_payload(fleet: Fleet) -> None:
    fleet.publisher.publish("blobs", "2.0.0", [Payload("app", b"")])
    path = f"/blobs/{hashlib.sha256(b'').hexdigest()}"
    assert ask(fleet, path=path)[::2] == (200, b"")
    assert ask(fleet, path=path, range="bytes=0-")[0] == 416


def test_people_may_read_too_and_strangers_may_not(fleet: Fleet) -> None:
    viewer = {"authorization": f"Bearer {fleet.token('reader', 'viewer')}", "accept-encoding": "identity"}
    assert httpx.get(f"{fleet.url}{PATH}", headers=viewer).content == CONTENT
    assert httpx.get(f"{fleet.url}{PATH}").status_code == 401


KEPT = 2
"""Connections to the store that wait for the next use: fewer than the twenty downloads, which would leave one each."""


def test_a_client_that_goes_away_leaves_nothing_open(fleet: Fleet) -> None:
    """Downloads that are broken off half-way, many times: the worker holds no file, and no connection to the store."""
    import time

    import psutil

    raw = os.urandom(24 * 1024 * 1024)
    fleet.publisher.publish("blobs", "3.0.0", [Payload("app", raw)])
    path = f"{fleet.url}/blobs/{hashlib.sha256(raw).hexdigest()}"
    worker = psutil.Process(fleet.hub.pid).children()[0]

    def open_now() -> int:
        files = sum("/blobs/" in opened.path for opened in worker.open_files())
        return files + sum(each.status == "ESTABLISHED" for each in worker.net_connections())

    before = open_now()
    for _ in range(20):
        with httpx.stream("GET", path, headers={"authorization": f"Bearer {fleet.device_token}"}) as answer:
            next(answer.iter_raw())
    end = time.monotonic() + 10
    while open_now() > before + KEPT:
        assert time.monotonic() < end, f"{open_now()} files and connections are still open, {before} were before"
        time.sleep(0.1)


def test_a_slow_client_does_not_fill_the_memory(fleet: Fleet) -> None:
    """The hub reads no further than the client takes."""
    import socket
    import time

    import psutil

    raw = os.urandom(160 * 1024 * 1024)
    fleet.publisher.publish("blobs", "4.0.0", [Payload("app", raw)])
    worker = psutil.Process(fleet.hub.pid).children()[0]
    before = worker.memory_info().rss
    lines = f"GET /blobs/{hashlib.sha256(raw).hexdigest()} HTTP/1.1\r\nhost: x\r\n"
    with socket.create_connection(("127.0.0.1", fleet.hub.port)) as slow:
        slow.sendall(f"{lines}authorization: Bearer {fleet.device_token}\r\n\r\n".encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        time.sleep(2)
        grown = worker.memory_info().rss - before
    assert grown < 48 * 1024 * 1024, f"{grown / 1e6:.0f} MB wait for a client that takes nothing"

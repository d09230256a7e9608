"""Which stores a hub takes, and what their failures mean. The stub says what stores say that are not at hand here."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import obstore
import pytest
from obstore.store import S3Store

from sdx_hub.adapters.object_store import check, open_store, reaching
from sdx_hub.domain.errors import BadInput, Unavailable
from tests.support.s3 import Bucket

EMPTY = b'<?xml version="1.0"?><ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>'
FULL = b"<Error><Code>XMinioStorageFull</Code><Message>It is full</Message></Error>"


class Stub(BaseHTTPRequestHandler):
    """A store that lists nothing, and answers every PUT as `put` says."""

    put = (200, b"")

    def do_GET(self) -> None:
        self._answer(200, EMPTY)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "0")))
        self._answer(*self.put)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("etag", '"1"')
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[str]:
    handler = type("Handler", (Stub,), {"put": request.param})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"s3://bucket?endpoint=http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://UPPER",
        "s3://a",
        "s3://bucket/../other",
        "s3://bucket/a//b",
        "s3://bucket?endpoint=ftp://host",
        "s3://bucket?endpoint=https://",
        "s3://bucket?endpoint=https://[::1",
        "s3://bucket?region",
        "s3://bucket?acl=public-read",
        "s3://bucket#part",
        "s3://key:secret@bucket",
        "s3://bucket?endpoint=https://key:secret@host",
        "gs://bucket",
        "http://bucket",
    ],
)
def test_an_address_that_is_none_is_refused_with_a_sentence_that_repeats_nothing(url: str) -> None:
    with pytest.raises(BadInput) as refused:
        open_store(url, "key", "secret")
    assert refused.value.code == "blob_url_invalid"
    assert "key:secret" not in str(refused.value)


@pytest.mark.parametrize(("key_id", "secret"), [("key", ""), ("", "secret")])
def test_half_a_pair_of_credentials_is_refused(key_id: str, secret: str) -> None:
    with pytest.raises(BadInput) as refused:
        open_store("s3://bucket", key_id, secret)
    assert refused.value.code == "blob_url_invalid"


async def test_a_store_that_a_hub_can_work_with(s3: Bucket) -> None:
    store = open_store(s3.url, s3.key_id, s3.secret)
    await check(store)
    await check(store)  # As the next start does, with what the first one left.


async def test_what_another_tool_has_in_the_environment_is_not_heard(
    s3: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("AWS_SESSION_TOKEN", "of somebody"),
        ("AWS_SKIP_SIGNATURE", "true"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
    ):
        monkeypatch.setenv(name, value)
    await check(open_store(s3.url, s3.key_id, s3.secret))


def test_the_secret_is_in_nothing_that_may_be_shown() -> None:
    store = open_store("s3://bucket", "key", "very-secret")
    assert isinstance(store, S3Store)
    assert "very-secret" not in f"{store!r} {store.config} {store.client_options}"


@pytest.mark.parametrize("stub", [(200, b"")], indirect=True)
async def test_a_store_that_overwrites_where_it_is_asked_not_to_is_refused(stub: str) -> None:
    with pytest.raises(BadInput) as refused:
        await check(open_store(stub, "key", "secret"))
    assert refused.value.code == "blob_store_unfit"


@pytest.mark.parametrize(
    ("stub", "code"),
    [
        ((507, FULL), "storage_full"),
        ((403, b"<Error><Code>QuotaExceeded</Code></Error>"), "storage_full"),
        ((500, b"<Error><Code>InternalError</Code></Error>"), "blob_store_unavailable"),
        ((403, b"<Error><Code>AccessDenied</Code></Error>"), "blob_store_unavailable"),
        ((200, b""), ""),
    ],
    indirect=["stub"],
    ids=["minio full", "ceph quota", "broken", "denied", "well"],
)
async def test_what_a_store_says_becomes_a_code(stub: str, code: str) -> None:
    said = ""
    try:
        async with reaching():
            await obstore.put_async(open_store(stub, "key", "very-secret"), "a", b"x")
    except Unavailable as error:
        said = error.code
        assert "127.0.0.1" not in str(error)
        assert "very-secret" not in str(error) + str(error.__cause__)
    assert said == code


async def test_time_is_bounded() -> None:
    with pytest.raises(Unavailable) as refused:
        async with reaching(0.01):
            await asyncio.Event().wait()
    assert refused.value.code == "blob_store_unavailable"

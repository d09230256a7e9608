"""What only an object store can do to a hub: break off in the middle, and fill up behind its back."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdx_hub.adapters import object_store
from sdx_hub.adapters.blobs import READ_BYTES
from sdx_hub.adapters.object_blobs import ObjectStoreBlobs
from sdx_hub.adapters.object_store import open_store
from sdx_hub.demo.servers.seaweed import SeaweedServer
from sdx_hub.domain.errors import NotFound, Unavailable
from tests.support.s3 import Bucket, fresh_bucket

CONTENT = os.urandom(64 * READ_BYTES)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def blobs_in(bucket: Bucket) -> ObjectStoreBlobs:
    return ObjectStoreBlobs(open_store(bucket.url, bucket.key_id, bucket.secret))


async def put(store: ObjectStoreBlobs, content: bytes, folder: Path) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / "source"
    path.write_bytes(content)
    await store.put(sha256, "identity", path)
    return sha256


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SeaweedServer]:
    own = SeaweedServer(tmp_path / "s3")
    try:
        own.start()
        yield own
    finally:
        own.kill()


async def test_a_reading_goes_on_after_the_store_broke_it_off(
    server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client tries again by itself, but only in the first seconds of a request."""
    monkeypatch.setattr(object_store, "_RETRIES", 0)
    store = blobs_in(fresh_bucket(server))
    await put(store, CONTENT, tmp_path)
    pieces = store.read(SHA256, "identity", 0, len(CONTENT))
    got = [await anext(pieces)]
    server.kill()
    server.start()
    got += [piece async for piece in pieces]
    assert b"".join(got) == CONTENT


async def test_a_reading_of_a_store_that_stays_away_fails_and_does_not_end_early(
    server: SeaweedServer, tmp_path: Path
) -> None:
    store = blobs_in(fresh_bucket(server))
    await put(store, CONTENT, tmp_path)
    pieces = store.read(SHA256, "identity", 0, len(CONTENT))
    await anext(pieces)
    server.kill()
    with pytest.raises(Unavailable) as refused:
        async for _ in pieces:
            pass
    assert refused.value.code == "blob_store_unavailable"


async def test_a_blob_that_vanishes_while_it_is_read(s3: Bucket, tmp_path: Path) -> None:
    store = blobs_in(s3)
    await put(store, CONTENT, tmp_path)
    pieces = store.read(SHA256, "identity", 0, len(CONTENT))
    await store.delete(SHA256)
    with pytest.raises(NotFound):
        await anext(pieces)


async def test_a_full_store_takes_nothing_and_keeps_what_it_has(server: SeaweedServer, tmp_path: Path) -> None:
    store = blobs_in(fresh_bucket(server))
    await put(store, CONTENT, tmp_path)
    server.stop()
    server.start(full=True)
    more = os.urandom(2_000_000)
    with pytest.raises(Unavailable):
        await put(store, more, tmp_path)
    assert (tmp_path / "source").read_bytes() == more, "what was not stored is not gone either"
    assert b"".join([piece async for piece in store.read(SHA256, "identity", 0, len(CONTENT))]) == CONTENT
    server.restart()
    sha256 = await put(store, more, tmp_path)
    assert b"".join([piece async for piece in store.read(sha256, "identity", 0, len(more))]) == more

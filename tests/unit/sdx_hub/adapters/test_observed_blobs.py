"""A watched store does what the store does, and its failures are counted."""

import hashlib
from pathlib import Path

import pytest

from sdx_hub.adapters.blobs import LocalBlobs, key_of
from sdx_hub.adapters.observed_blobs import ObservedBlobs
from sdx_hub.domain.errors import NotFound
from sdx_hub.observing import BLOB_PUT, BLOB_READ, BLOB_STAT, observed

PAYLOAD = b"payload" * 100_000
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


async def whole(store: ObservedBlobs, sha256: str) -> bytes:
    return b"".join([piece async for piece in store.read(sha256, "identity", 0, len(PAYLOAD))])


async def test_it_does_what_the_store_does(tmp_path: Path) -> None:
    observed.take_seconds()
    store = ObservedBlobs(LocalBlobs(tmp_path / "blobs"))
    (tmp_path / "source").write_bytes(PAYLOAD)
    await store.put(SHA256, "identity", tmp_path / "source")
    assert await store.stat(SHA256, "identity") == len(PAYLOAD)
    assert await whole(store, SHA256) == PAYLOAD
    assert [found async for found in store.stored()] == [(SHA256, "identity", len(PAYLOAD))]
    await store.delete(SHA256)
    assert await store.stat(SHA256, "identity") is None
    times = observed.take_seconds()
    assert (len(times[BLOB_PUT]), len(times[BLOB_STAT])) == (1, 2)
    assert len(times[BLOB_READ]) == 1, "one reading is one step, in however many pieces"


async def test_what_is_not_there_is_no_failure_and_what_cannot_be_read_is(tmp_path: Path) -> None:
    store = ObservedBlobs(LocalBlobs(tmp_path / "blobs"))
    before = observed.failures[BLOB_READ]
    with pytest.raises(NotFound):
        await whole(store, SHA256)
    assert observed.failures[BLOB_READ] == before
    (tmp_path / "blobs" / key_of(SHA256, "identity")).mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        await whole(store, SHA256)
    assert observed.failures[BLOB_READ] == before + 1

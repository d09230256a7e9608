"""One contract, every store: the local default, a real S3 server, and obstore's memory and folder."""

import errno
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore

from sdx_hub.adapters import blobs
from sdx_hub.adapters.blobs import READ_BYTES, BlobStore, LocalBlobs
from sdx_hub.adapters.object_blobs import PART_BYTES, ObjectStoreBlobs
from sdx_hub.adapters.object_store import open_store
from sdx_hub.domain.errors import NotFound
from tests.support.s3 import Bucket

CONTENT = os.urandom(3 * READ_BYTES + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
STORES: dict[str, Callable[[pytest.FixtureRequest, Path], BlobStore]] = {
    "local": lambda request, folder: LocalBlobs(folder / "blobs"),
    "s3": lambda request, folder: opened(request.getfixturevalue("s3")),
    "memory": lambda request, folder: ObjectStoreBlobs(MemoryStore()),
    "obstore folder": lambda request, folder: ObjectStoreBlobs(LocalStore(folder / "blobs", mkdir=True)),
}


def opened(bucket: Bucket) -> BlobStore:
    return ObjectStoreBlobs(open_store(bucket.url, bucket.key_id, bucket.secret))


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return STORES[request.param](request, tmp_path)


def source(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "source"
    path.write_bytes(content)
    return path


async def read(store: BlobStore, start: int = 0, length: int = len(CONTENT)) -> bytes:
    return b"".join([piece async for piece in store.read(SHA256, "identity", start, length)])


async def test_what_was_put_can_be_read_whole_and_in_parts(store: BlobStore, tmp_path: Path) -> None:
    path = source(tmp_path)
    await store.put(SHA256, "identity", path)
    assert not path.exists()
    assert await store.stat(SHA256, "identity") == len(CONTENT)
    assert await store.stat(SHA256, "zstd") is None
    assert await read(store) == CONTENT
    assert await read(store, 5, 10) == CONTENT[5:15]
    assert await read(store, READ_BYTES - 1, READ_BYTES + 2) == CONTENT[READ_BYTES - 1 : 2 * READ_BYTES + 1]
    assert await read(store, len(CONTENT) - 3, 100) == CONTENT[-3:]
    assert await read(store, 3, 0) == b""


async def test_a_blob_that_is_not_there(store: BlobStore) -> None:
    assert await store.stat(SHA256, "identity") is None
    with pytest.raises(NotFound) as refused:
        await read(store)
    assert refused.value.code == "blob_not_found"


async def test_a_stored_representation_never_changes(store: BlobStore, tmp_path: Path) -> None:
    """A device that resumes its download of the compressed form must not get the rest of another encoder's."""
    await store.put(SHA256, "zstd", source(tmp_path, b"first form"))
    second = source(tmp_path, b"a second form")
    await store.put(SHA256, "zstd", second)
    assert not second.exists()
    assert b"".join([piece async for piece in store.read(SHA256, "zstd", 0, 100)]) == b"first form"


@pytest.mark.parametrize("size", [PART_BYTES, 2 * PART_BYTES + 1], ids=["one part", "three parts"])
async def test_of_two_hubs_that_finish_the_same_payload_at_once_the_first_one_wins(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Both looked and found nothing; then both put. The forms differ as those of two encoders do."""
    first, second = (number.to_bytes() * size for number in (1, 2))
    await store.put(SHA256, "zstd", source(tmp_path, first))

    async def nothing(*_: object) -> None:
        return None

    with monkeypatch.context() as late:
        late.setattr(store, "stat", nothing)
        late.setattr(Path, "exists", lambda _: False)
        await store.put(SHA256, "zstd", source(tmp_path, second))
    assert b"".join([piece async for piece in store.read(SHA256, "zstd", 0, size)]) == first
    assert [each async for each in store.stored()] == [(SHA256, "zstd", size)]


async def test_what_is_stored_is_listed_and_nothing_else(store: BlobStore, tmp_path: Path) -> None:
    await store.put(SHA256, "identity", source(tmp_path))
    await store.put(SHA256, "zstd", source(tmp_path, b"other"))
    (tmp_path / "blobs" / SHA256[:2]).mkdir(parents=True, exist_ok=True)
    (tmp_path / "blobs" / "notes").write_bytes(b"somebody's")
    (tmp_path / "blobs" / SHA256[:2] / ".incoming-1").write_bytes(b"a copy that a crash interrupted")
    (tmp_path / "blobs" / SHA256[:2] / "notes").write_bytes(b"somebody's")
    found = sorted([each async for each in store.stored()])
    assert found == [(SHA256, "identity", len(CONTENT)), (SHA256, "zstd", 5)]


async def test_delete_removes_both_forms_and_is_content_with_none(store: BlobStore, tmp_path: Path) -> None:
    await store.put(SHA256, "identity", source(tmp_path))
    await store.put(SHA256, "zstd", source(tmp_path))
    await store.delete(SHA256)
    await store.delete(SHA256)
    assert await store.stat(SHA256, "identity") is None
    assert await store.stat(SHA256, "zstd") is None


async def test_an_empty_blob(store: BlobStore, tmp_path: Path) -> None:
    await store.put(SHA256, "identity", source(tmp_path, b""))
    assert await store.stat(SHA256, "identity") == 0
    assert await read(store, 0, 0) == b""


async def test_the_local_folder_is_one_that_obstore_reads(tmp_path: Path) -> None:
    await LocalBlobs(tmp_path / "blobs").put(SHA256, "identity", source(tmp_path))
    assert await read(ObjectStoreBlobs(LocalStore(tmp_path / "blobs"))) == CONTENT


async def test_local_put_syncs_the_content_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalBlobs(tmp_path / "blobs")
    target = tmp_path / "blobs" / blobs.key_of(SHA256, "identity")
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append((str(Path(f"/proc/self/fd/{handle}").readlink()), target.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    path = source(tmp_path)
    await store.put(SHA256, "identity", path)
    content = synced.index((str(path), False))
    name = synced.index((str(target.parent), True))
    assert content < name == len(synced) - 1
    assert (str(tmp_path / "blobs"), False) in synced, "the new folder's own name"


async def test_local_put_from_another_file_system_appears_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalBlobs(tmp_path / "blobs")
    path = source(tmp_path)
    real = os.link

    def link(origin: Path, target: Path) -> None:
        if origin == path:
            raise OSError(errno.EXDEV, "another file system")
        real(origin, target)

    monkeypatch.setattr(os, "link", link)
    await store.put(SHA256, "identity", path)
    assert await read(store) == CONTENT
    assert not path.exists()
    assert [left.name for left in (tmp_path / "blobs" / SHA256[:2]).iterdir()] == [SHA256]


async def test_a_copy_that_a_crash_interrupted_is_removed_but_not_one_under_way(tmp_path: Path) -> None:
    folder = tmp_path / "blobs" / "ab"
    folder.mkdir(parents=True)
    old, young = folder / ".incoming-1", folder / ".incoming-2"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    LocalBlobs(tmp_path / "blobs")
    assert not old.exists()
    assert young.exists()

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from sdx_hub.adapters import known_sizes
from sdx_hub.adapters.blobs import Encoding, LocalBlobs
from sdx_hub.adapters.known_sizes import KnownSizes
from sdx_hub.domain.errors import NotFound

CONTENT = b"content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Asked:
    """A real store, and how often it was asked for a size."""

    def __init__(self, folder: Path) -> None:
        self.store = LocalBlobs(folder / "blobs")
        self.times = 0

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        self.times += 1
        return await self.store.stat(sha256, encoding)

    def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncGenerator[bytes, None]:
        return self.store.read(sha256, encoding, start, length)

    async def put(self, sha256: str, folder: Path) -> None:
        path = folder / "source"
        path.write_bytes(CONTENT)
        await self.store.put(sha256, "identity", path)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


async def test_a_size_is_asked_for_once(asked: Asked, tmp_path: Path) -> None:
    await asked.put(SHA256, tmp_path)
    sizes = KnownSizes(asked)
    assert [await sizes.stat(SHA256, "identity") for _ in range(3)] == [len(CONTENT)] * 3
    assert asked.times == 1


async def test_that_a_blob_is_not_there_is_not_remembered(asked: Asked, tmp_path: Path) -> None:
    sizes = KnownSizes(asked)
    assert await sizes.stat(SHA256, "identity") is None
    await asked.put(SHA256, tmp_path)
    assert await sizes.stat(SHA256, "identity") == len(CONTENT)
    assert await sizes.stat(SHA256, "zstd") is None


async def test_a_blob_that_is_gone_is_forgotten_when_it_is_read(asked: Asked, tmp_path: Path) -> None:
    await asked.put(SHA256, tmp_path)
    sizes = KnownSizes(asked)
    assert await sizes.stat(SHA256, "identity") == len(CONTENT)
    await asked.store.delete(SHA256)
    with pytest.raises(NotFound):
        [piece async for piece in sizes.read(SHA256, "identity", 0, len(CONTENT))]
    assert await sizes.stat(SHA256, "identity") is None


async def test_memory_is_bounded_and_what_was_asked_for_lately_stays(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_sizes, "MAX_KNOWN", 2)
    first, second, third = (digit * 64 for digit in "123")
    for sha256 in (first, second, third):
        await asked.put(sha256, tmp_path)
    sizes = KnownSizes(asked)
    for sha256 in (first, second, first, third):
        await sizes.stat(sha256, "identity")
    assert asked.times == 3
    await sizes.stat(first, "identity")
    assert asked.times == 3
    await sizes.stat(second, "identity")
    assert asked.times == 4

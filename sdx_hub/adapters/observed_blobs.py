"""A blob store whose every call is a step that is seen: timed, counted where it fails, and a span of a trace."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from sdx_hub.adapters.blobs import BlobStore, Encoding
from sdx_hub.observing import BLOB_DELETE, BLOB_PUT, BLOB_READ, BLOB_STAT, observed


class ObservedBlobs:
    """Does what the store does.

    Args:
        blobs: The store.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        with observed.step(BLOB_STAT):
            return await self._blobs.stat(sha256, encoding)

    async def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Of a reading the first piece is the step: how fast the rest goes is the client's affair."""
        async with aclosing(self._blobs.read(sha256, encoding, start, length)) as pieces:
            with observed.step(BLOB_READ):
                piece = await anext(pieces, None)
            while piece is not None:
                yield piece
                with observed.failing(BLOB_READ):
                    piece = await anext(pieces, None)

    async def put(self, sha256: str, encoding: Encoding, source: Path) -> None:
        with observed.step(BLOB_PUT):
            await self._blobs.put(sha256, encoding, source)

    async def delete(self, sha256: str) -> None:
        with observed.step(BLOB_DELETE):
            await self._blobs.delete(sha256)

    def stored(self) -> AsyncIterator[tuple[str, Encoding, int]]:
        return self._blobs.stored()

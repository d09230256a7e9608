"""The sizes of blobs that were served lately: a blob never changes, so that only its bytes need to be asked for."""

from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing

from sdx_hub.adapters.blobs import BlobReader, Encoding
from sdx_hub.domain.errors import NotFound

MAX_KNOWN = 16_384
"""Sizes in memory, about 5 MB; the one that was asked for longest ago goes first."""


class KnownSizes:
    """A reader that asks the store once how large a blob is. For serving alone: whoever decides asks the store itself.

    Args:
        blobs: Where the bytes are.
    """

    def __init__(self, blobs: BlobReader) -> None:
        self._blobs = blobs
        self._sizes: OrderedDict[tuple[str, Encoding], int] = OrderedDict()

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        key = (sha256, encoding)
        known = self._sizes.get(key)
        if known is not None:
            self._sizes.move_to_end(key)
            return known
        size = await self._blobs.stat(sha256, encoding)
        if size is not None:  # What is not there may come.
            self._sizes[key] = size
            if len(self._sizes) > MAX_KNOWN:
                self._sizes.popitem(last=False)
        return size

    async def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._blobs.read(sha256, encoding, start, length)) as pieces:
                async for piece in pieces:
                    yield piece
        except NotFound:
            self._sizes.pop((sha256, encoding), None)
            raise

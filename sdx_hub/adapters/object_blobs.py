"""Payloads in an object store: the same names and the same promises as in a folder."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import ObjectStore

from sdx_hub.adapters.blobs import ENCODINGS, READ_BYTES, Encoding, key_of, named_by, not_found
from sdx_hub.adapters.object_store import INCOMING, PUT_S, keys, reaching
from sdx_hub.domain.errors import Unavailable

PART_BYTES = 8 * 1024**2
"""What is sent in one request, and held in memory for it."""

_PARTS = 2
_MAX_COPY_BYTES = 1024**3
"""What a store copies well within the time of one request."""


class ObjectStoreBlobs:
    """Blobs in an object store.

    Args:
        store: Of obstore; what it puts appears whole or not at all.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        try:
            async with reaching():
                return (await obstore.head_async(self._store, key_of(sha256, encoding)))["size"]
        except FileNotFoundError:
            return None

    async def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncGenerator[bytes, None]:
        end = start + length
        while start < end:
            began = start
            try:
                async with aclosing(self._stream(sha256, encoding, start, end)) as pieces:
                    async for piece in pieces:
                        start += len(piece)
                        yield piece
            except Unavailable:
                # A store restarts, and cuts off whoever takes long: go on from here, unless nothing comes any more.
                if start == began:
                    raise
            else:
                return

    async def _stream(self, sha256: str, encoding: Encoding, start: int, end: int) -> AsyncGenerator[bytes, None]:
        try:
            async with reaching():
                found = await obstore.get_async(self._store, key_of(sha256, encoding), options={"range": (start, end)})
        except FileNotFoundError:
            raise not_found(sha256) from None
        pieces = found.stream(min_chunk_size=READ_BYTES)
        while True:
            async with reaching():
                piece = await anext(pieces, None)
            if piece is None:
                return
            yield bytes(piece)

    async def put(self, sha256: str, encoding: Encoding, source: Path) -> None:
        if await self.stat(sha256, encoding) is None:
            await self._put_new(key_of(sha256, encoding), encoding, source)
        await asyncio.to_thread(source.unlink)

    async def _put_new(self, key: str, encoding: Encoding, source: Path) -> None:
        """Put what was not there a moment ago; another replica may be doing the same, and the first one wins."""
        size = (await asyncio.to_thread(source.stat)).st_size
        if size <= PART_BYTES:
            with suppress(AlreadyExistsError):
                async with reaching(PUT_S):
                    await obstore.put_async(self._store, key, source, mode="create")
        elif encoding == "identity" or size > _MAX_COPY_BYTES:
            await self._put_parts(key, source)  # Whoever puts the identity puts the same bytes.
        else:
            # No upload in parts is told not to replace another object; a copy in the store is.
            incoming = f"{INCOMING}{secrets.token_hex(16)}"
            await self._put_parts(incoming, source)
            with suppress(AlreadyExistsError):
                async with reaching(None):
                    await obstore.copy_async(self._store, incoming, key, overwrite=False)
            async with reaching():
                await obstore.delete_async(self._store, incoming)

    async def _put_parts(self, key: str, source: Path) -> None:
        async with reaching(None):
            await obstore.put_async(self._store, key, source, chunk_size=PART_BYTES, max_concurrency=_PARTS)

    async def delete(self, sha256: str) -> None:
        for encoding in ENCODINGS:
            try:
                async with reaching():
                    await obstore.delete_async(self._store, key_of(sha256, encoding))
            except FileNotFoundError:
                continue

    async def stored(self) -> AsyncIterator[tuple[str, Encoding, int]]:
        async for each in keys(self._store):
            if (named := named_by(each["path"])) is not None:
                yield *named, each["size"]

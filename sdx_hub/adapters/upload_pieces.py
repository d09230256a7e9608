"""Pieces of uploads under way, in the same kind of store as the payloads that they become.

A piece has a name that nobody used before, and is stored whole before anybody is told of it. So a late or slow
connection can neither change a piece nor slip one in: which pieces an upload has is what its rows in the database say.
"""

import shutil
from asyncio import to_thread
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import obstore
from obstore.store import ObjectStore

from sdx_hub.adapters.blobs import READ_BYTES, room, sync_file, sync_folder
from sdx_hub.adapters.object_store import PUT_S, UNDER_WAY, keys, reaching
from sdx_hub.adapters.scratch import Scratch

UNNAMED_LIFE = timedelta(days=1)
"""An object that belongs to no open upload and is older is a crash's leftover. More than a store's clock is off."""


class PieceStore(Protocol):
    """Every method may be called by many tasks, of many replicas, at once.

    All methods raise `Unavailable` (codes `blob_store_unavailable`, `storage_full`).
    """

    async def put(self, name: str, source: Path) -> None:
        """Take a file into the store under a new name: afterwards it is durable, and the source is gone."""
        ...

    async def add_to(self, target: Path, name: str) -> None:
        """Write a piece behind what the file `target` has.

        Raises:
            FileNotFoundError: It is not stored.
        """
        ...

    async def drop(self, names: Sequence[str]) -> None:
        """Remove pieces; one that is gone already is no error."""
        ...

    async def sweep(self, wanted: set[str], now: datetime) -> None:
        """Remove what is not wanted, except what is young: its upload may be about to name it."""
        ...


class LocalPieces:
    """Pieces in the folder of the scratch files.

    Args:
        scratch: Best on the file system of the blobs, so that a payload is moved and not copied.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    async def put(self, name: str, source: Path) -> None:
        def take() -> None:
            with room():
                sync_file(source)
            source.replace(self._path(name))
            sync_folder(self._scratch.folder)

        await to_thread(take)

    async def add_to(self, target: Path, name: str) -> None:
        def add() -> None:
            with room(), self._path(name).open("rb") as source, target.open("ab") as out:
                shutil.copyfileobj(source, out, READ_BYTES)

        await to_thread(add)

    async def drop(self, names: Sequence[str]) -> None:
        await to_thread(self._scratch.remove, *map(self._path, names))

    async def sweep(self, wanted: set[str], now: datetime) -> None:
        await to_thread(self._scratch.sweep, {self._path(name).name for name in wanted})

    def _path(self, name: str) -> Path:
        return self._scratch.folder / name.replace("/", "-")


class ObjectPieces:
    """Pieces in an object store.

    Args:
        store: Of obstore.
        scratch: Where this replica puts files together.
    """

    def __init__(self, store: ObjectStore, scratch: Scratch) -> None:
        self._store = store
        self._scratch = scratch

    async def put(self, name: str, source: Path) -> None:
        async with reaching(PUT_S):
            await obstore.put_async(self._store, f"{UNDER_WAY}/{name}", source, use_multipart=False)
        await to_thread(source.unlink)

    async def add_to(self, target: Path, name: str) -> None:
        async with reaching(PUT_S):
            found = await obstore.get_async(self._store, f"{UNDER_WAY}/{name}")
            piece = await found.bytes_async()

        def add() -> None:
            with room(), target.open("ab") as out:
                out.write(piece)

        await to_thread(add)

    async def drop(self, names: Sequence[str]) -> None:
        await self._drop([f"{UNDER_WAY}/{name}" for name in names])

    async def sweep(self, wanted: set[str], now: datetime) -> None:
        await to_thread(self._scratch.sweep, set())
        known = {f"{UNDER_WAY}/{name}" for name in wanted}
        before = now - UNNAMED_LIFE
        found = [each async for each in keys(self._store, UNDER_WAY)]
        await self._drop(
            [each["path"] for each in found if each["last_modified"] < before and each["path"] not in known]
        )

    async def _drop(self, names: list[str]) -> None:
        if names:
            with suppress(FileNotFoundError):  # Some stores say so of an object that is gone already.
                async with reaching(None):
                    await obstore.delete_async(self._store, names)

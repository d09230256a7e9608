"""Where payloads are, by one setting: a folder of this machine, or an object store that all replicas share."""

from pathlib import Path

from sdx_hub.adapters import object_store
from sdx_hub.adapters.blobs import BlobReader, BlobStore, LocalBlobs
from sdx_hub.adapters.known_sizes import KnownSizes
from sdx_hub.adapters.object_blobs import ObjectStoreBlobs
from sdx_hub.adapters.observed_blobs import ObservedBlobs
from sdx_hub.adapters.scratch import Scratch
from sdx_hub.adapters.upload_pieces import LocalPieces, ObjectPieces, PieceStore


class Storage:
    """Payloads, and what is on its way to become one.

    Args:
        url: A path, or `s3://BUCKET/PREFIX?endpoint=...&region=...`.
        key_id: Of an object store's credentials.
        secret: Of an object store's credentials.
        scratch: Folder of files that are being worked on.

    Raises:
        BadInput: The URL is malformed (code `blob_url_invalid`).
    """

    blobs: BlobStore
    served: BlobReader
    pieces: PieceStore

    def __init__(self, url: str, key_id: str, secret: str, scratch: Path) -> None:
        self.scratch = Scratch(scratch)
        self._store = object_store.open_store(url, key_id, secret) if object_store.is_object_store(url) else None
        if self._store is None:
            self.blobs = self.served = ObservedBlobs(LocalBlobs(Path(url)))
            self.pieces = LocalPieces(self.scratch)
        else:
            self.blobs = ObservedBlobs(ObjectStoreBlobs(self._store))
            self.served = KnownSizes(self.blobs)
            self.pieces = ObjectPieces(self._store, self.scratch)

    async def check(self) -> None:
        """Refuse a store that a hub cannot work with; one that is away may come back.

        Raises:
            BadInput: See `object_store.check`.
        """
        if self._store is not None:
            await object_store.check(self._store)

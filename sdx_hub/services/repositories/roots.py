"""The roots that a device is told to trust: the `Roots` of the enrolment service, for the composition root.

EnrolmentService(database, clock, TrustRoots(database, image), fleet)
"""

import hashlib
from typing import Literal

from msgspec import Struct
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.domain.errors import NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.trust import MetadataFile
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.trust.online import DIRECTOR, IMAGE


class RootDigests(Struct, frozen=True):
    """SHA-256 of the newest roots."""

    image: str
    director: str


class TrustRoots:
    """Roots by their digest; an old one is as good as the newest, because a device walks on from it by itself.

    Args:
        database: With the tables.
        image: Whose knowledge of both repositories is shared; it must be loaded.
    """

    def __init__(self, database: Database, image: ImageRepository) -> None:
        self._database = database
        self._store = image.store
        self._versions: dict[tuple[str, str], int] = {}

    def root_digests(self) -> RootDigests:
        """The digests that an enrolment string made now carries."""
        known = self._store.root_digests
        return RootDigests(known[IMAGE], known[DIRECTOR])

    async def root_with_digest(self, repository: Literal["image", "director"], sha256: str) -> bytes:
        """The root, of any version, whose bytes have this digest.

        Raises:
            NotFound: There is none (code `root_unknown`).
        """
        version = self._versions.get((repository, sha256))
        if version is None:
            await self._read_new(repository)
            version = self._versions.get((repository, sha256))
        if version is None:
            raise NotFound(f"This hub has no {repository} root with the digest {sha256[:12]}...", "root_unknown")
        return await self._store.file(repository, "root", version)

    async def _read_new(self, repository: str) -> None:
        last = max((version for (of, _), version in self._versions.items() if of == repository), default=0)
        new = select(col(MetadataFile.version), col(MetadataFile.raw)).where(
            col(MetadataFile.repository) == repository,
            col(MetadataFile.role) == "root",
            col(MetadataFile.version) > last,
        )
        async with self._database.reading() as session:
            for version, raw in await session.execute(new):
                self._versions[repository, hashlib.sha256(raw).hexdigest()] = version

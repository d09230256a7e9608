"""Signed metadata of both repositories: the rows, and what a worker keeps of them in memory.

Every change takes the next number of one counter first. That row stays locked until the commit, so that changes come
one after the other in all workers, and comparing the number is all that a worker needs to know whether it is up to
date. A file never changes once it has a version, so files are cached without asking.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta

from msgspec import Struct, json
from securesystemslib.signer import SSlibKey
from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from tuf.api.metadata import Metadata, Signed, Targets

from sdx_hub.domain.errors import NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import Counter
from sdx_hub.persistence.tables.trust import MetadataFile, OnlineKey
from sdx_hub.persistence.unit_of_work import TRUST_COUNTER, UnitOfWork
from sdx_hub.services.repositories.bounded_cache import BoundedCache
from sdx_hub.trust.online import IMAGE, OnlineKeyInfo, OnlineSigners
from sdx_hub.trust.verification import delegated_roles

_CACHE_BYTES = 32 * 1024**2


class Head(Struct, frozen=True):
    """The newest version of a role."""

    version: int
    created_at: datetime
    expires_at: datetime

    def life(self, longest: timedelta = timedelta.max) -> timedelta:
        """How long it is valid in all; not more than `longest`, where the setting was made shorter since."""
        return min(longest, self.expires_at - self.created_at)


class MetadataStore:
    """What one worker knows.

    Attributes:
        number: Of the last change that was seen; 0 before the first.
        heads: By repository and role.
        root_digests: SHA-256 of the newest root, by repository.
        delegated: The roles that the newest top targets role delegates to.
    """

    def __init__(self, database: Database, signers: OnlineSigners) -> None:
        self._database = database
        self._signers = signers
        self._files: BoundedCache[tuple[str, str, int], bytes] = BoundedCache(_CACHE_BYTES)
        self._looking = asyncio.Lock()
        self._looks_begun = 0
        self._looks_done = 0
        self.number = 0
        self.heads: Mapping[tuple[str, str], Head] = {}
        self.root_digests: Mapping[str, str] = {}
        self.delegated: frozenset[str] = frozenset()

    async def look(self) -> None:
        """Know everything that was committed before this call; callers at the same time share one query."""
        arrived = self._looks_begun
        async with self._looking:
            if self._looks_done > arrived:
                return
            self._looks_begun += 1
            async with self._database.reading() as session:
                number = await change_number(session)
                if number != self.number:
                    await self._read(session)
                    self.number = number
            self._looks_done = self._looks_begun

    async def _read(self, session: AsyncSession) -> None:
        heads = await newest(session)
        digests = {
            repository: sha256(await one(session, repository, "root", head.version))
            for (repository, role), head in heads.items()
            if role == "root"
        }
        targets = await newest_raw(session, IMAGE, "targets")
        await learn_keys(session, self._signers)
        self.heads, self.root_digests = heads, digests
        if targets is not None:
            self.delegated = frozenset(delegated_roles(Metadata[Targets].from_bytes(targets).signed))

    async def file(self, repository: str, role: str, version: int) -> bytes:
        """One file.

        Raises:
            NotFound: There is no such version (code `metadata_not_found`).
        """
        name = (repository, role, version)
        raw = self._files.get(name)
        if raw is None:
            async with self._database.reading() as session:
                raw = await one(session, repository, role, version)
            self._files.put(name, raw, len(raw))
        return raw

    async def newest_file(self, repository: str, role: str) -> bytes:
        """The newest version of a role that this worker has seen.

        Raises:
            NotFound: There is none (code `metadata_not_found`).
        """
        head = self.heads.get((repository, role))
        if head is None:
            raise not_found(repository, role)
        return await self.file(repository, role, head.version)


async def begin_change(uow: UnitOfWork) -> int:
    """Take the turn to change metadata or online keys; the next one waits until this transaction has ended."""
    return await uow.next_number(TRUST_COUNTER)


async def change_number(session: AsyncSession) -> int:
    """The number of the last committed change."""
    return await session.scalar(select(col(Counter.value)).where(col(Counter.name) == TRUST_COUNTER)) or 0


async def newest(session: AsyncSession) -> dict[tuple[str, str], Head]:
    """The newest version of every role."""
    last = (
        select(
            col(MetadataFile.repository).label("repository"),
            col(MetadataFile.role).label("role"),
            func.max(col(MetadataFile.version)).label("version"),
        )
        .group_by(col(MetadataFile.repository), col(MetadataFile.role))
        .subquery()
    )
    rows = await session.execute(
        select(
            col(MetadataFile.repository),
            col(MetadataFile.role),
            col(MetadataFile.version),
            col(MetadataFile.created_at),
            col(MetadataFile.expires_at),
        ).join(
            last,
            and_(
                col(MetadataFile.repository) == last.c.repository,
                col(MetadataFile.role) == last.c.role,
                col(MetadataFile.version) == last.c.version,
            ),
        )
    )
    return {(repository, role): Head(version, created, expires) for repository, role, version, created, expires in rows}


async def find(session: AsyncSession, repository: str, role: str, version: int) -> bytes | None:
    """The bytes of one version, or None where there is none."""
    raw = await session.scalar(
        select(col(MetadataFile.raw)).where(
            col(MetadataFile.repository) == repository,
            col(MetadataFile.role) == role,
            col(MetadataFile.version) == version,
        )
    )
    return None if raw is None else bytes(raw)


async def one(session: AsyncSession, repository: str, role: str, version: int) -> bytes:
    """The bytes of one version.

    Raises:
        NotFound: There is no such version (code `metadata_not_found`).
    """
    raw = await find(session, repository, role, version)
    if raw is None:
        raise not_found(repository, role)
    return raw


async def newest_raw(session: AsyncSession, repository: str, role: str) -> bytes | None:
    """The bytes of the newest version, as this transaction sees it."""
    raw = await session.scalar(
        select(col(MetadataFile.raw))
        .where(col(MetadataFile.repository) == repository, col(MetadataFile.role) == role)
        .order_by(col(MetadataFile.version).desc())
        .limit(1)
    )
    return None if raw is None else bytes(raw)


def add(session: AsyncSession, repository: str, role: str, *, signed: Signed, raw: bytes, now: datetime) -> None:
    """Store a version, byte for byte; its primary key refuses a second one."""
    session.add(
        MetadataFile(
            repository=repository,
            role=role,
            version=signed.version,
            raw=raw,
            expires_at=signed.expires,
            created_at=now,
        )
    )


async def learn_keys(session: AsyncSession, signers: OnlineSigners) -> None:
    """Tell the signers of every online key that there is."""
    rows = await session.scalars(select(OnlineKey))
    signers.learn(
        OnlineKeyInfo(row.repository, row.role, row.uri, SSlibKey.from_dict(row.keyid, json.decode(row.key)))
        for row in rows
    )


def not_found(repository: str, role: str) -> NotFound:
    return NotFound(f"The {repository} repository has no such version of {role[:80]!r}.", "metadata_not_found")


def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()

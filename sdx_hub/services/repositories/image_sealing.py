"""The snapshot and the timestamp over everything that people signed: made in the transaction that stores it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from sdx_hub.observing import IMAGE_TIMESTAMPS, SIGN_IMAGE, observed
from sdx_hub.persistence.tables.trust import MetadataFile
from sdx_hub.services.repositories import metadata_store as rows
from sdx_hub.trust.online import IMAGE, Lives, OnlineSigners
from sdx_hub.trust.verification import Verified

_KEEP_SNAPSHOTS = timedelta(days=7)
"""A client in the middle of its work still finds the snapshot that its timestamp named."""
_KEEP_TIMESTAMPS = timedelta(minutes=5)
"""Only the newest is served, but another worker may be about to read the one before."""
T = TypeVar("T", Root, Targets, Snapshot, Timestamp)


async def seal(
    session: AsyncSession,
    signers: OnlineSigners,
    lives: Lives,
    now: datetime,
    new: Sequence[Verified[Root] | Verified[Targets]],
    *,
    renew_snapshot: bool = True,
) -> None:
    """Store verified metadata, and the next snapshot and timestamp over all there is, in the caller's transaction.

    The snapshot names every role with version, length and hash, and never drops one: clients take that for a rollback
    (TUF specification 1.0.34, 5.5.5).
    """
    for each in new:
        rows.add(session, IMAGE, each.role, signed=each.signed, raw=each.raw, now=now)
    await session.flush()
    root = await _newest(session, "root", Root)
    snapshot, timestamp = await _newest(session, "snapshot", Snapshot), await _newest(session, "timestamp", Timestamp)
    if root is None:
        raise rows.not_found(IMAGE, "root")
    if renew_snapshot or snapshot is None or timestamp is None:
        meta = dict(snapshot.meta) if snapshot is not None else {}
        meta |= {f"{each.role}.json": _listed(each.signed.version, each.raw) for each in new if each.role != "root"}
        following = Snapshot(_after(snapshot), expires=now + lives.snapshot, meta=meta)
        with observed.step(SIGN_IMAGE):
            raw = signers.seal(IMAGE, "snapshot", root, following)
        rows.add(session, IMAGE, "snapshot", signed=following, raw=raw, now=now)
        listed = _listed(following.version, raw)
    else:
        listed = timestamp.snapshot_meta
    newest = Timestamp(_after(timestamp), expires=now + lives.timestamp, snapshot_meta=listed)
    with observed.step(SIGN_IMAGE):
        raw = signers.seal(IMAGE, "timestamp", root, newest)
    observed.count(IMAGE_TIMESTAMPS)
    rows.add(session, IMAGE, "timestamp", signed=newest, raw=raw, now=now)
    await _forget(session, now, before_timestamp=newest.version, before_snapshot=listed.version)


async def newest_targets(session: AsyncSession, role: str) -> Targets | None:
    """The newest metadata of the top targets role or of a team, as this transaction sees it."""
    return await _newest(session, role, Targets)


async def _newest(session: AsyncSession, role: str, kind: type[T]) -> T | None:
    raw = await rows.newest_raw(session, IMAGE, role)
    if raw is None:
        return None
    signed = Metadata[Any].from_bytes(raw).signed
    if not isinstance(signed, kind):
        raise TypeError(f"The stored metadata of {role} is of type {signed.type}.")
    return signed


async def _forget(session: AsyncSession, now: datetime, *, before_timestamp: int, before_snapshot: int) -> None:
    """Delete what the hub signed and nobody asks for any more; what people signed stays for good."""
    for role, newest, kept in (
        ("timestamp", before_timestamp, _KEEP_TIMESTAMPS),
        ("snapshot", before_snapshot, _KEEP_SNAPSHOTS),
    ):
        await session.execute(
            delete(MetadataFile).where(
                col(MetadataFile.repository) == IMAGE,
                col(MetadataFile.role) == role,
                col(MetadataFile.version) < newest - 1,
                col(MetadataFile.created_at) <= now - kept,
            )
        )


def _listed(version: int, raw: bytes) -> MetaFile:
    return MetaFile.from_data(version, raw, ["sha256"])


def _after(signed: Snapshot | Timestamp | None) -> int:
    return signed.version + 1 if signed is not None else 1

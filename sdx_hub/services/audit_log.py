"""Reading the audit log, and proving that nobody changed it."""

import json
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.audit_chain import GENESIS, link
from sdx_hub.domain.errors import TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry, Counter
from sdx_hub.persistence.unit_of_work import AUDIT_COUNTER
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor

_ROWS = 1_000


class AuditLine(Struct, frozen=True):
    """One entry, with what is needed to verify an exported log elsewhere (see `domain.audit_chain`)."""

    seq: int
    time: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    prev_hash: str
    hash: str


class AuditLogService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, principal: Principal, *, cursor: str | None, limit: int) -> Page[AuditLine]:
        """Entries, the newest first.

        Raises:
            NotAllowed: The role does not administer.
            BadInput: The cursor is none (code `invalid_cursor`).
        """
        principal.require(Permission.ADMINISTER)
        query = select(AuditEntry).order_by(col(AuditEntry.seq).desc()).limit(limit + 1)
        if cursor:
            query = query.where(col(AuditEntry.seq) < decode_cursor(cursor, int))
        async with self._database.reading() as session:
            rows, more = cut((await session.scalars(query)).all(), limit)
        lines = [
            AuditLine(
                row.seq, row.time, row.actor, row.action, row.subject, json.loads(row.detail), row.prev_hash, row.hash
            )
            for row in rows
        ]
        return Page(lines, encode_cursor(rows[-1].seq) if more else None)


async def verify_chain(session: AsyncSession) -> int:
    """Follow the chain from its beginning to the last number that was given out.

    Whoever can write to the database and recomputes every later hash is found only by comparing the last hash with
    one that was kept elsewhere.

    Returns:
        The number of entries.

    Raises:
        TrustError: An entry was changed, removed or slipped in (code `audit_chain_broken`, member `seq`).
    """
    count, previous = 0, GENESIS
    rows = await session.stream_scalars(
        select(AuditEntry).order_by(col(AuditEntry.seq)).execution_options(yield_per=_ROWS)
    )
    async for part in rows.partitions():
        for row in part:
            if row.seq != count + 1 or row.prev_hash != previous or row.hash != _hash_of(row):
                raise _broken(count + 1)
            count, previous = row.seq, row.hash
    given_out = await session.scalar(select(col(Counter.value)).where(col(Counter.name) == AUDIT_COUNTER)) or 0
    if given_out != count:
        raise _broken(count + 1)
    return count


def _hash_of(row: AuditEntry) -> str:
    try:
        detail = json.loads(row.detail)
    except ValueError:
        return ""
    return link(
        seq=row.seq,
        time=row.time,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        detail=detail,
        prev_hash=row.prev_hash,
    )


def _broken(seq: int) -> TrustError:
    return TrustError(
        f"The audit log is not what was written: entry {seq} was changed, removed or slipped in. Keep a copy of the "
        "database, and compare it with the last backup.",
        "audit_chain_broken",
        seq=seq,
    )

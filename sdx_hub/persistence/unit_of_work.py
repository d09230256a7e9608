"""One transaction of a service, with its audit entries."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog
from msgspec import Struct
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas import canonical
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.audit_chain import GENESIS, link
from sdx_hub.persistence.tables.audit import AuditEntry, Counter

AUDIT_COUNTER = "audit"
DEVICE_CHANGE_COUNTER = "device_change"
DEVICE_NUMBER_COUNTER = "device_number"
_log = structlog.get_logger(__name__)


class _Entry(Struct, frozen=True):
    time: datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]


class UnitOfWork:
    """Made by `Database.unit_of_work()`.

    Attributes:
        session: The transaction. Do not commit it directly: the audit entries would be lost.
    """

    def __init__(self, session: AsyncSession, clock: Clock) -> None:
        self.session = session
        self._clock = clock
        self._entries: list[_Entry] = []
        self._after: list[Callable[[], Awaitable[object]]] = []
        self._committed = False

    async def audit(self, actor: str, action: str, subject: str, **detail: Any) -> None:
        """Note who did what; written in `commit`, in the same transaction.

        Args:
            actor: A principal's name, a device id, or `hub`.
            action: `thing.verb`, for instance `device.revoke`.
            subject: Id of the thing.
            detail: JSON-ready, without secrets and floats.
        """
        self._entries.append(_Entry(self._clock.now(), actor, action, subject, detail))

    def after_commit(self, callback: Callable[[], Awaitable[object]]) -> None:
        """Run `callback` once the transaction is committed and the writer's lock is free; never after a rollback.

        It must be something that is done again anyway (a cache that catches up): if it fails, that is logged and the
        caller still hears that its change was committed.
        """
        if callback not in self._after:
            self._after.append(callback)

    async def next_number(self, counter: str) -> int:
        """Take the next number of a counter; numbers are visible in the order in which they were taken."""
        taken = await self.session.scalar(
            update(Counter)
            .where(col(Counter.name) == counter)
            .values(value=col(Counter.value) + 1)
            .returning(col(Counter.value))
        )
        if taken is not None:
            return int(taken)
        self.session.add(Counter(name=counter, value=1))
        await self.session.flush()
        return 1

    async def commit(self) -> None:
        """Write the audit entries and commit.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The commit failed; nothing was written, and nothing may be acknowledged.
        """
        if self._committed:
            raise RuntimeError("A unit of work commits once.")
        await self.session.flush()
        for entry in self._entries:
            await self._write(entry)
        await self.session.commit()
        self._committed = True

    async def run_after_commit(self) -> None:
        if not self._committed:
            return
        for callback in self._after:
            try:
                await callback()
            except Exception:
                _log.exception("after_commit_failed", callback=repr(callback))

    async def _write(self, entry: _Entry) -> None:
        seq = await self.next_number(AUDIT_COUNTER)
        previous = await self.session.scalar(select(col(AuditEntry.hash)).where(col(AuditEntry.seq) == seq - 1))
        prev_hash = previous or GENESIS
        self.session.add(
            AuditEntry(
                seq=seq,
                time=entry.time,
                actor=entry.actor,
                action=entry.action,
                subject=entry.subject,
                detail=canonical.encode(entry.detail).decode(),
                prev_hash=prev_hash,
                hash=link(
                    seq=seq,
                    time=entry.time,
                    actor=entry.actor,
                    action=entry.action,
                    subject=entry.subject,
                    detail=entry.detail,
                    prev_hash=prev_hash,
                ),
            )
        )
        await self.session.flush()

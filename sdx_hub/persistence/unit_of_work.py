"""One transaction of a service, with its audit entries and the notices that tell other replicas of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import structlog
from msgspec import Struct
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas import canonical
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.audit_chain import GENESIS, link
from sdx_hub.persistence.tables.audit import AuditEntry, Counter

AUDIT_COUNTER = "audit"
DEVICE_CHANGE_COUNTER = "device_change"
DEVICE_NUMBER_COUNTER = "device_number"
TRUST_COUNTER = "trust"

FLEET_CHANNEL: Final = "sdx_fleet"
TRUST_CHANNEL: Final = "sdx_trust"
EVENTS_CHANNEL: Final = "sdx_events"
_CHANNELS: Final = {DEVICE_CHANGE_COUNTER: FLEET_CHANNEL, TRUST_COUNTER: TRUST_CHANNEL}
"""Whoever takes a number of these counters has changed what other replicas hold in memory."""
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

    def __init__(self, session: AsyncSession, clock: Clock, *, notifies: bool) -> None:
        self.session = session
        self._clock = clock
        self._notifies = notifies
        self._entries: list[_Entry] = []
        self._tells: set[str] = set()
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

    def tell(self, channel: str) -> None:
        """Tell all replicas, this one included, once the transaction is committed."""
        self._tells.add(channel)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that can fail alone: an error that leaves it takes back what it wrote and noted, and nothing else."""
        entries, callbacks, tells = len(self._entries), len(self._after), set(self._tells)
        try:
            async with self.session.begin_nested():
                yield
        except BaseException:
            del self._entries[entries:], self._after[callbacks:]
            self._tells = tells
            raise

    async def next_number(self, counter: str) -> int:
        """Take the next number of a counter; numbers are visible in the order in which they were taken."""
        return await self._take_numbers(counter, 1)

    async def commit(self) -> None:
        """Write the audit entries, tell the other replicas, and commit.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: The commit failed, and nothing may be acknowledged. Nothing was written,
                except perhaps where the connection was lost while the server had the word.
        """
        if self._committed:
            raise RuntimeError("A unit of work commits once.")
        await self.session.flush()
        if self._entries:
            await self._write_entries()
        if self._notifies:
            for channel in sorted(self._tells):
                await self.session.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel})
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

    async def _take_numbers(self, counter: str, count: int) -> int:
        """Take as many numbers in one go, and return the last of them."""
        if counter in _CHANNELS:
            self.tell(_CHANNELS[counter])
        last = await self.session.scalar(
            update(Counter)
            .where(col(Counter.name) == counter)
            .values(value=col(Counter.value) + count)
            .returning(col(Counter.value))
        )
        if last is not None:
            return int(last)
        self.session.add(Counter(name=counter, value=count))
        await self.session.flush()
        return count

    async def _write_entries(self) -> None:
        before = await self._take_numbers(AUDIT_COUNTER, len(self._entries)) - len(self._entries)
        last = await self.session.scalar(select(col(AuditEntry.hash)).where(col(AuditEntry.seq) == before))
        prev_hash = last or GENESIS
        for seq, entry in enumerate(self._entries, before + 1):
            following = link(
                seq=seq,
                time=entry.time,
                actor=entry.actor,
                action=entry.action,
                subject=entry.subject,
                detail=entry.detail,
                prev_hash=prev_hash,
            )
            self.session.add(
                AuditEntry(
                    seq=seq,
                    time=entry.time,
                    actor=entry.actor,
                    action=entry.action,
                    subject=entry.subject,
                    detail=canonical.encode(entry.detail).decode(),
                    prev_hash=prev_hash,
                    hash=following,
                )
            )
            prev_hash = following
        await self.session.flush()

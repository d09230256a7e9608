"""The queue of deliveries, in the database: whoever claims one has it for a while, in whichever replica.

A delivery is claimed by moving its next attempt to when the claim ends, in a transaction that has the turn to write:
no two replicas claim the same one. Who dies with a claim loses it, and the delivery is due again: at least once.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.event_types import matches
from sdx_hub.domain.webhook_schedule import Answer, Outcome, is_hopeless
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.events import DUE_ROWS, HubEvent, Webhook, WebhookDelivery
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.events import outbox
from sdx_hub.services.webhooks.webhooks import TEST

CLAIM: Final = timedelta(seconds=60)
"""Longer than an attempt can take."""
KEPT: Final = timedelta(days=7)
"""So long are deliveries shown after they were done or given up."""
DISABLED: Final = "webhook.disabled"
_PAGE: Final = 100


class Claimed(Struct, frozen=True):
    """A delivery that is this process's to attempt.

    Attributes:
        attempts: How many there were.
        body: As it is sent.
    """

    webhook: str
    event: int
    attempts: int
    url: str
    secret: str
    body: bytes

    def __repr__(self) -> str:
        return f"Claimed(webhook={self.webhook!r}, event={self.event}, secret=***)"


class _Message(Struct, frozen=True):
    type: str
    timestamp: datetime
    data: msgspec.Raw


class DeliveryQueue:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def fill(self) -> bool:
        """Make deliveries of the events that happened since the last time; return whether there is any webhook."""
        behind = select(func.min(Webhook.sent_through)).where(col(Webhook.disabled_at).is_(None))
        while True:
            async with self._database.reading() as session:
                least = await session.scalar(behind)
                newest = await session.scalar(select(func.max(HubEvent.id))) or 0
            if least is None or least >= newest:
                return least is not None
            async with self._database.unit_of_work() as uow:
                await _fill(uow.session, self._clock.now())
                await uow.commit()

    async def waiting(self) -> list[str]:
        """Webhooks to which something is due now."""
        query = (
            select(col(WebhookDelivery.webhook_id))
            .join(Webhook, col(Webhook.id) == col(WebhookDelivery.webhook_id))
            .where(DUE_ROWS, col(WebhookDelivery.next_at) <= self._clock.now(), col(Webhook.disabled_at).is_(None))
            .distinct()
        )
        async with self._database.reading() as session:
            return list(await session.scalars(query))

    async def claim(self, webhook: str) -> Claimed | None:
        """Take what is due longest to a webhook; None where nothing is."""
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            query = (
                select(WebhookDelivery, Webhook, HubEvent)
                .join(Webhook, col(Webhook.id) == col(WebhookDelivery.webhook_id))
                .join(HubEvent, col(HubEvent.id) == col(WebhookDelivery.event_id))
                .where(DUE_ROWS, col(WebhookDelivery.next_at) <= now, col(Webhook.disabled_at).is_(None))
                .where(col(WebhookDelivery.webhook_id) == webhook)
                .order_by(col(WebhookDelivery.next_at), col(WebhookDelivery.event_id))
                .limit(1)
            )
            found = (await uow.session.execute(query)).first()
            if found is None:
                return None
            delivery, hook, event = found
            delivery.next_at = now + CLAIM
            await uow.commit()
        message = _Message(event.type, event.time, msgspec.Raw(event.data.encode()))
        body = msgspec.json.encode(message)
        return Claimed(hook.id, delivery.event_id, delivery.attempts, hook.url, hook.secret, body)

    async def note(self, claimed: Claimed, answer: Answer, outcome: Outcome) -> None:
        """Write down how an attempt ended; nothing where another replica has done so, after this claim was over."""
        now = self._clock.now()
        ended = {"done": "done", "again": "due", "given_up": "failed", "gone": "failed"}[outcome.verdict]
        async with self._database.unit_of_work() as uow:
            noted = await uow.session.scalar(
                update(WebhookDelivery)
                .where(
                    col(WebhookDelivery.webhook_id) == claimed.webhook,
                    col(WebhookDelivery.event_id) == claimed.event,
                    col(WebhookDelivery.attempts) == claimed.attempts,
                    DUE_ROWS,
                )
                .values(
                    state=ended,
                    attempts=claimed.attempts + 1,
                    next_at=outcome.next_at,
                    status=answer.status,
                    error=answer.error,
                )
                .returning(col(WebhookDelivery.event_id))
            )
            hook = await uow.session.get(Webhook, claimed.webhook)
            if noted is None or hook is None:
                return
            if outcome.others_wait_until is not None:
                await _postpone(uow.session, hook.id, outcome.others_wait_until)
            if outcome.verdict == "done":
                hook.failing_since = None
            else:
                hook.failing_since = hook.failing_since or now
            if outcome.verdict == "gone":
                await _disable(uow, hook, "gone", "Its receiver answered 410: it wants no more.", now)
            elif hook.failing_since and is_hopeless(hook.failing_since, now):
                await _disable(uow, hook, "failing", "It has failed for five days.", now)
            await uow.commit()

    async def sweep(self) -> None:
        """Forget deliveries whose end is long ago."""
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(
                delete(WebhookDelivery).where(
                    col(WebhookDelivery.state) != "due", col(WebhookDelivery.next_at) < self._clock.now() - KEPT
                )
            )
            await uow.commit()


async def _fill(session: AsyncSession, now: datetime) -> None:
    hooks = (await session.scalars(select(Webhook).where(col(Webhook.disabled_at).is_(None)))).all()
    least = min(hook.sent_through for hook in hooks) if hooks else 0
    query = select(HubEvent).where(col(HubEvent.id) > least).order_by(col(HubEvent.id)).limit(_PAGE)
    for event in (await session.scalars(query)).all():
        number = event.id or 0
        for hook in hooks:
            if number <= hook.sent_through:
                continue
            hook.sent_through = number
            if event.type != TEST and matches(msgspec.json.decode(hook.types, type=list[str]), event.type):
                session.add(WebhookDelivery(webhook_id=hook.id, event_id=number, state="due", next_at=now))


async def _postpone(session: AsyncSession, webhook: str, until: datetime) -> None:
    await session.execute(
        update(WebhookDelivery)
        .where(DUE_ROWS, col(WebhookDelivery.webhook_id) == webhook, col(WebhookDelivery.next_at) < until)
        .values(next_at=until)
    )


async def _disable(uow: UnitOfWork, hook: Webhook, code: str, sentence: str, now: datetime) -> None:
    hook.disabled_at, hook.disabled_code = now, code
    await uow.session.execute(
        update(WebhookDelivery)
        .where(DUE_ROWS, col(WebhookDelivery.webhook_id) == hook.id)
        .values(state="failed", next_at=now, error="The webhook was disabled.")
    )
    outbox.emit(uow, now, DISABLED, hook.id, webhook=hook.id, code=code, sentence=f"{hook.id} is disabled: {sentence}")
    await uow.audit("hub", "webhook.disable", hook.id, code=code)

"""Webhooks: making, looking at, testing, enabling and deleting them. Their secret is shown once, when they are made."""

import base64
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import msgspec
from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import ConflictError, NotFound
from sdx_hub.domain.event_types import check_patterns
from sdx_hub.domain.webhook_signing import SECRET_BYTES, shown_secret
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.events import HubEvent, Webhook, WebhookDelivery
from sdx_hub.persistence.unit_of_work import EVENTS_CHANNEL
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor
from sdx_hub.services.webhooks.addresses import check_url

MAX_WEBHOOKS: Final = 50
TEST: Final = "webhook.test"
"""Goes to the webhook that it names, and to no other."""


class WebhookView(Struct, frozen=True):
    """What may be shown of a webhook.

    Attributes:
        types: Patterns of the events that it is told of; none for all.
        state: `failing` is still tried, `disabled` is not.
        disabled_code: `failing`: for five days; `gone`: its receiver answered 410.
    """

    id: str
    url: str
    types: tuple[str, ...]
    state: Literal["enabled", "failing", "disabled"]
    created_by: str
    created_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_code: str


class NewWebhook(Struct, frozen=True):
    """A webhook just made; the only moment at which its secret is shown."""

    webhook: WebhookView
    secret: str

    def __repr__(self) -> str:
        return f"NewWebhook(webhook={self.webhook!r}, secret=***)"


class DeliveryView(Struct, frozen=True):
    """One event on its way.

    Attributes:
        event: Its id.
        time: When it happened.
        attempts: How many there were.
        next_at: When it is tried next; else when it was done or given up.
        status: HTTP status of the last attempt; 0 where there was no answer.
    """

    event: int
    type: str
    subject: str
    time: datetime
    state: Literal["due", "done", "failed"]
    attempts: int
    next_at: datetime
    status: int
    error: str


class WebhookService:
    """For admins.

    Args:
        database: Of the hub.
        clock: Of the hub.
        plain: Unencrypted addresses are taken for any host.
    """

    def __init__(self, database: Database, clock: Clock, *, plain: bool) -> None:
        self._database = database
        self._clock = clock
        self._plain = plain

    async def create(self, principal: Principal, url: str, types: Sequence[str]) -> NewWebhook:
        """Make a webhook; it is told of what happens from now on.

        Raises:
            NotAllowed: `principal` is no admin.
            BadInput: The address or a type is none (codes `invalid_webhook_url`, `invalid_event_type`).
            ConflictError: There are too many (code `too_many_webhooks`).
        """
        principal.require(Permission.ADMINISTER)
        address = check_url(url, plain=self._plain)
        secret = base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
        async with self._database.unit_of_work() as uow:
            if (await uow.session.scalar(select(func.count()).select_from(Webhook)) or 0) >= MAX_WEBHOOKS:
                raise ConflictError(f"There are {MAX_WEBHOOKS} webhooks already: delete one.", "too_many_webhooks")
            row = Webhook(
                id=f"wh-{secrets.token_hex(6)}",
                url=url,
                types=msgspec.json.encode(check_patterns(types)).decode(),
                secret=secret,
                sent_through=await _newest(uow.session),
                created_by=principal.name,
                created_at=self._clock.now(),
            )
            uow.session.add(row)
            await uow.audit(principal.name, "webhook.create", row.id, host=address.host, types=_types(row))
            await uow.commit()
            return NewWebhook(_view(row), shown_secret(secret))

    async def list(self, principal: Principal) -> list[WebhookView]:
        """Every webhook, the oldest first.

        Raises:
            NotAllowed: `principal` is no admin.
        """
        principal.require(Permission.ADMINISTER)
        async with self._database.reading() as session:
            rows = await session.scalars(select(Webhook).order_by(col(Webhook.created_at), col(Webhook.id)))
            return [_view(row) for row in rows]

    async def show(self, principal: Principal, identity: str) -> WebhookView:
        """One webhook.

        Raises:
            NotAllowed: `principal` is no admin.
            NotFound: There is none with this id (code `webhook_not_found`).
        """
        principal.require(Permission.ADMINISTER)
        async with self._database.reading() as session:
            return _view(await _find(session, identity))

    async def delete(self, principal: Principal, identity: str) -> None:
        """Delete a webhook, with what is due to it.

        Raises:
            NotAllowed, NotFound: As for `show`.
        """
        principal.require(Permission.ADMINISTER)
        async with self._database.unit_of_work() as uow:
            row = await _find(uow.session, identity)
            await uow.session.delete(row)
            await uow.audit(principal.name, "webhook.delete", row.id)
            await uow.commit()

    async def test(self, principal: Principal, identity: str) -> DeliveryView:
        """Send an event `webhook.test` to this webhook alone; `deliveries` shows what becomes of it.

        Raises:
            NotAllowed, NotFound: As for `show`.
            ConflictError: It is disabled (code `webhook_disabled`).
        """
        principal.require(Permission.ADMINISTER)
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            row = await _find(uow.session, identity)
            if row.disabled_at is not None:
                raise ConflictError(f"It is disabled: sdx webhook enable {row.id}.", "webhook_disabled")
            data = {"webhook": row.id, "by": principal.name}
            event = HubEvent(time=now, type=TEST, subject=row.id, data=msgspec.json.encode(data).decode())
            uow.session.add(event)
            await uow.session.flush()
            delivery = WebhookDelivery(webhook_id=row.id, event_id=event.id or 0, state="due", next_at=now)
            uow.session.add(delivery)
            await uow.audit(principal.name, "webhook.test", row.id)
            uow.tell(EVENTS_CHANNEL)
            await uow.commit()
            return _delivery(delivery, event)

    async def enable(self, principal: Principal, identity: str) -> WebhookView:
        """Tell a webhook again of what happens, from now on; what it missed can be read at `/events`.

        Raises:
            NotAllowed, NotFound: As for `show`.
        """
        principal.require(Permission.ADMINISTER)
        async with self._database.unit_of_work() as uow:
            row = await _find(uow.session, identity)
            if row.disabled_at is not None:
                row.disabled_at, row.disabled_code, row.failing_since = None, "", None
                row.sent_through = await _newest(uow.session)
                await uow.audit(principal.name, "webhook.enable", row.id)
                await uow.commit()
            return _view(row)

    async def deliveries(
        self, principal: Principal, identity: str, *, cursor: str | None, limit: int
    ) -> Page[DeliveryView]:
        """What is and was on its way to a webhook, the newest event first; for seven days after its end.

        Raises:
            NotAllowed, NotFound: As for `show`.
            BadInput: The cursor is none (code `invalid_cursor`).
        """
        principal.require(Permission.ADMINISTER)
        query = (
            select(WebhookDelivery, HubEvent)
            .join(HubEvent, col(HubEvent.id) == col(WebhookDelivery.event_id))
            .where(col(WebhookDelivery.webhook_id) == identity)
            .order_by(col(WebhookDelivery.event_id).desc())
            .limit(limit + 1)
        )
        if cursor:
            query = query.where(col(WebhookDelivery.event_id) < decode_cursor(cursor, int))
        async with self._database.reading() as session:
            await _find(session, identity)
            rows, more = cut((await session.execute(query)).all(), limit)
        return Page([_delivery(*row) for row in rows], encode_cursor(rows[-1][0].event_id) if more else None)


async def _find(session: AsyncSession, identity: str) -> Webhook:
    row = await session.get(Webhook, identity)
    if row is None:
        raise NotFound(f"There is no webhook {identity[:80]!r}. See: sdx webhook list.", "webhook_not_found")
    return row


async def _newest(session: AsyncSession) -> int:
    return await session.scalar(select(func.max(HubEvent.id))) or 0


def _types(row: Webhook) -> Sequence[str]:
    return msgspec.json.decode(row.types, type=list[str])


def _view(row: Webhook) -> WebhookView:
    return WebhookView(
        row.id,
        row.url,
        tuple(_types(row)),
        "disabled" if row.disabled_at else "failing" if row.failing_since else "enabled",
        row.created_by,
        row.created_at,
        row.failing_since,
        row.disabled_at,
        row.disabled_code,
    )


def _delivery(row: WebhookDelivery, event: HubEvent) -> DeliveryView:
    return DeliveryView(
        row.event_id,
        event.type,
        event.subject,
        event.time,
        row.state,  # type: ignore[arg-type]  # The table has a constraint.
        row.attempts,
        row.next_at,
        row.status,
        row.error,
    )

"""Webhooks of admins: what is shown of them, and what they are told of."""

import asyncio
import base64
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlmodel import col

from sdx_hub.domain.access import Principal, Role
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.events import HubEvent, Webhook, WebhookDelivery
from sdx_hub.services.webhooks.queue import DeliveryQueue
from sdx_hub.services.webhooks.webhooks import MAX_WEBHOOKS, WebhookService
from tests.unit.sdx_hub.services.conftest import ADMIN, START, MovableClock
from tests.unit.sdx_hub.services.events.test_feed import happen

URL = "https://receiver.example/hooks?channel=ops"


@pytest.fixture
def webhooks(database: Database, clock: MovableClock) -> WebhookService:
    return WebhookService(database, clock, plain=False)


@pytest.fixture
def queue(database: Database, clock: MovableClock) -> DeliveryQueue:
    return DeliveryQueue(database, clock)


async def told(database: Database) -> list[tuple[str, str]]:
    query = select(col(WebhookDelivery.webhook_id), col(HubEvent.type)).join(
        HubEvent, col(HubEvent.id) == col(WebhookDelivery.event_id)
    )
    async with database.reading() as session:
        return sorted((hook, kind) for hook, kind in await session.execute(query))


async def test_the_secret_is_shown_once(webhooks: WebhookService, database: Database) -> None:
    made = await webhooks.create(ADMIN, URL, ["rollout.*", "rollout.*"])
    assert made.secret.startswith("whsec_")
    assert len(base64.b64decode(made.secret.removeprefix("whsec_"), validate=True)) == 32
    assert made.webhook == await webhooks.show(ADMIN, made.webhook.id)
    assert made.webhook.types == ("rollout.*",)
    assert (made.webhook.state, made.webhook.created_by, made.webhook.created_at) == ("enabled", "adam", START)
    other = await webhooks.create(ADMIN, URL, [])
    assert other.secret != made.secret
    async with database.reading() as session:
        rows = list(await session.scalars(select(Webhook)))
        entries = list(await session.scalars(select(AuditEntry)))
    shown = [*await webhooks.list(ADMIN), *(entry.detail for entry in entries), *rows, made, other]
    assert made.secret.removeprefix("whsec_") not in repr(shown)
    assert [entry.action for entry in entries] == ["webhook.create"] * 2
    assert "channel=ops" not in entries[0].detail, "an address may be as good as a secret"


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.PUBLISHER, Role.APPROVER])
async def test_webhooks_are_for_admins(webhooks: WebhookService, database: Database, role: Role) -> None:
    identity, other = (await webhooks.create(ADMIN, URL, [])).webhook.id, Principal("olga", role)
    asked: list[Any] = [
        webhooks.create(other, URL, []),
        webhooks.list(other),
        webhooks.show(other, identity),
        webhooks.delete(other, identity),
        webhooks.test(other, identity),
        webhooks.enable(other, identity),
        webhooks.deliveries(other, identity, cursor=None, limit=1),
    ]
    for each in asked:
        with pytest.raises(NotAllowed):
            await each
    assert len(await webhooks.list(ADMIN)) == 1
    assert await told(database) == []


async def test_one_that_is_not_there(webhooks: WebhookService) -> None:
    asked: list[Any] = [
        webhooks.show(ADMIN, "wh-1"),
        webhooks.delete(ADMIN, "wh-1"),
        webhooks.test(ADMIN, "wh-1"),
        webhooks.enable(ADMIN, "wh-1"),
        webhooks.deliveries(ADMIN, "wh-1", cursor=None, limit=1),
    ]
    for each in asked:
        with pytest.raises(NotFound) as refusal:
            await each
        assert refusal.value.code == "webhook_not_found"


async def test_what_cannot_be_a_webhook_leaves_none(webhooks: WebhookService) -> None:
    for url, types in (("http://a.example/", []), (URL, ["*"])):
        with pytest.raises(BadInput):
            await webhooks.create(ADMIN, url, types)
    assert await webhooks.list(ADMIN) == []


async def test_there_are_not_too_many(webhooks: WebhookService) -> None:
    for _ in range(MAX_WEBHOOKS):
        await webhooks.create(ADMIN, URL, [])
    with pytest.raises(ConflictError) as refusal:
        await webhooks.create(ADMIN, URL, [])
    assert refusal.value.code == "too_many_webhooks"
    assert len(await webhooks.list(ADMIN)) == MAX_WEBHOOKS == 50


async def test_a_webhook_is_told_of_its_types_from_its_making_on(
    webhooks: WebhookService, queue: DeliveryQueue, database: Database
) -> None:
    await happen(database, "rollout.created")
    all_of_it = (await webhooks.create(ADMIN, URL, [])).webhook.id
    halts = (await webhooks.create(ADMIN, URL, ["rollout.halted"])).webhook.id
    await happen(database, "rollout.halted", "rollout.paused")
    await queue.fill()
    await queue.fill()
    expected = [(all_of_it, "rollout.halted"), (all_of_it, "rollout.paused"), (halts, "rollout.halted")]
    assert await told(database) == sorted(expected)
    await happen(database, *["rollout.halted"] * 230)
    await queue.fill()
    assert len(await told(database)) == 3 + 460, "page after page"


async def test_two_replicas_make_each_delivery_once(
    webhooks: WebhookService, queue: DeliveryQueue, database: Database, clock: MovableClock
) -> None:
    await webhooks.create(ADMIN, URL, [])
    await happen(database, *["rollout.halted"] * 30)
    await asyncio.gather(*(DeliveryQueue(database, clock).fill() for _ in range(4)))
    assert len(await told(database)) == 30


async def test_a_test_goes_to_one_webhook_alone(
    webhooks: WebhookService, queue: DeliveryQueue, database: Database
) -> None:
    first = (await webhooks.create(ADMIN, URL, ["rollout.*"])).webhook.id
    await webhooks.create(ADMIN, URL, [])
    sent = await webhooks.test(ADMIN, first)
    assert (sent.type, sent.subject, sent.state, sent.attempts) == ("webhook.test", first, "due", 0)
    await queue.fill()
    assert await told(database) == [(first, "webhook.test")]
    assert (await webhooks.deliveries(ADMIN, first, cursor=None, limit=10)).items == [sent]


async def test_deliveries_in_pages(webhooks: WebhookService, queue: DeliveryQueue, database: Database) -> None:
    identity = (await webhooks.create(ADMIN, URL, [])).webhook.id
    await happen(database, "rollout.n1", "rollout.n2", "rollout.n3")
    await queue.fill()
    first = await webhooks.deliveries(ADMIN, identity, cursor=None, limit=2)
    rest = await webhooks.deliveries(ADMIN, identity, cursor=first.following, limit=2)
    assert [each.type for each in [*first.items, *rest.items]] == ["rollout.n3", "rollout.n2", "rollout.n1"]
    assert rest.following is None


async def test_what_is_deleted_takes_its_deliveries_along(
    webhooks: WebhookService, queue: DeliveryQueue, database: Database
) -> None:
    identity = (await webhooks.create(ADMIN, URL, [])).webhook.id
    await happen(database, "rollout.halted")
    await queue.fill()
    await webhooks.delete(ADMIN, identity)
    assert await told(database) == []
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(HubEvent)) == 1

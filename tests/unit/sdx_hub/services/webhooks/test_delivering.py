"""Deliveries over days of the hub's time, to a real receiver: again and again, given up, put off, disabled."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.domain.errors import ConflictError
from sdx_hub.domain.webhook_schedule import DELAYS_S, JITTER, Answer, judge
from sdx_hub.observing import WEBHOOK_ATTEMPTS, observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.events import HubEvent
from sdx_hub.services.webhooks.delivering import DeliveryWorker
from sdx_hub.services.webhooks.queue import CLAIM, DeliveryQueue
from sdx_hub.services.webhooks.sending import Sender
from sdx_hub.services.webhooks.webhook_figures import webhook_figures
from sdx_hub.services.webhooks.webhooks import DeliveryView, WebhookService
from tests.support.receiver import Receiver, verify
from tests.unit.sdx_hub.services.conftest import ADMIN, START, MovableClock
from tests.unit.sdx_hub.services.events.test_feed import happen


class Replica:
    """A hub's part that delivers."""

    def __init__(self, database: Database, clock: MovableClock, receiver: Receiver) -> None:
        self.database, self.clock, self.receiver = database, clock, receiver
        self.webhooks = WebhookService(database, clock, plain=False)
        self.queue = DeliveryQueue(database, clock)
        self.sender = Sender("1", plain=False)
        self.worker = DeliveryWorker(self.queue, self.sender, clock)
        self.secrets: dict[str, str] = {}

    async def add(self, *types: str) -> str:
        made = await self.webhooks.create(ADMIN, self.receiver.url, types)
        self.secrets[made.webhook.id] = made.secret
        return made.webhook.id

    async def go(self, **by: float) -> None:
        """Let time pass, and do what is due then."""
        self.clock.move(**by)
        await self.worker.look()
        await self.worker.idle()

    async def only(self, webhook: str) -> DeliveryView:
        (found,) = (await self.webhooks.deliveries(ADMIN, webhook, cursor=None, limit=10)).items
        return found

    async def states(self, webhook: str) -> list[str]:
        found = await self.webhooks.deliveries(ADMIN, webhook, cursor=None, limit=50)
        return [each.state for each in found.items]

    async def state(self, webhook: str) -> tuple[str, str]:
        shown = await self.webhooks.show(ADMIN, webhook)
        return shown.state, shown.disabled_code


@pytest.fixture
async def replica(database: Database, clock: MovableClock, receiver: Receiver) -> Any:
    replica = Replica(database, clock, receiver)
    yield replica
    await replica.worker.stop()


async def test_a_message_is_signed_and_says_what_happened(replica: Replica, clock: MovableClock) -> None:
    webhook = await replica.add("rollout.*")
    await happen(replica.database, "rollout.halted", subject="ro-12")
    before = observed.counts[WEBHOOK_ATTEMPTS["taken"]]
    await replica.go()
    (got,) = replica.receiver.got
    verify(replica.secrets[webhook], got.headers, got.body, now_s=clock.now().timestamp())
    assert got.body == (
        '{"type":"rollout.halted","timestamp":"2026-03-01T12:00:00Z",'
        '"data":{"rollout":"ro-12","sentence":"Ünd so weiter."}}'.encode()
    )
    assert got.message == f"msg_{webhook.removeprefix('wh-')}_1"
    delivery = await replica.only(webhook)
    assert (delivery.state, delivery.attempts, delivery.status, delivery.error) == ("done", 1, 200, "")
    assert observed.counts[WEBHOOK_ATTEMPTS["taken"]] == before + 1
    await replica.go(days=1)
    assert len(replica.receiver.got) == 1


async def test_a_message_is_tried_ten_times_and_given_up(replica: Replica, clock: MovableClock) -> None:
    webhook = await replica.add()
    replica.receiver.status = 500
    await happen(replica.database, "rollout.halted")
    await replica.go()
    for number, delay_s in enumerate(DELAYS_S, 1):
        delivery = await replica.only(webhook)
        assert (delivery.state, delivery.attempts, delivery.status) == ("due", number, 500)
        waits_s = (delivery.next_at - clock.now()).total_seconds()
        assert delay_s <= waits_s <= delay_s * (1 + JITTER)
        await replica.go(seconds=delay_s - 0.001)
        assert len(replica.receiver.got) == number, "not before its time"
        await replica.go(seconds=waits_s - delay_s + 0.002)
    delivery = await replica.only(webhook)
    assert (delivery.state, delivery.attempts, delivery.error) == ("failed", 10, "The receiver answered with 500.")
    assert len({got.message for got in replica.receiver.got}) == 1
    assert len({got.headers["webhook-timestamp"] for got in replica.receiver.got}) == 10
    await replica.go(days=3)
    assert len(replica.receiver.got) == 10


async def test_a_receiver_that_fails_twice_and_then_takes_it_is_well_again(replica: Replica) -> None:
    webhook = await replica.add()
    replica.receiver.answers = [500, 500]
    await happen(replica.database, "rollout.halted")
    await replica.go()
    assert await replica.state(webhook) == ("failing", "")
    await replica.go(seconds=6)
    await replica.go(minutes=6)
    assert (await replica.only(webhook)).state == "done"
    assert await replica.state(webhook) == ("enabled", "")
    assert len(replica.receiver.got) == 3


async def test_after_five_days_of_failing_a_webhook_is_disabled_and_others_hear_of_it(
    replica: Replica, clock: MovableClock, database: Database
) -> None:
    watched, other = await replica.add("rollout.*"), await replica.add("webhook.*")
    replica.receiver.status = 503
    for _ in range(5):
        await happen(database, "rollout.paused")
        await replica.go(days=1)
    assert (await webhook_figures(database, clock.now())).webhooks == {"enabled": 1, "failing": 1, "disabled": 0}
    await happen(database, "rollout.paused")
    await replica.go(hours=23)
    assert await replica.state(watched) == ("failing", "")
    await happen(database, "rollout.paused")
    await replica.go(hours=1)
    assert await replica.state(watched) == ("disabled", "failing")
    figures = await webhook_figures(database, clock.now())
    assert figures.webhooks == {"enabled": 1, "failing": 0, "disabled": 1}
    replica.receiver.status = 200
    await replica.go(days=1)
    last = replica.receiver.got[-1].event
    assert last["type"] == "webhook.disabled"
    assert last["data"]["webhook"] == watched
    assert last["data"]["code"] == "failing"
    assert [each.state for each in (await replica.webhooks.deliveries(ADMIN, other, cursor=None, limit=5)).items] == [
        "done"
    ]
    states = {each.state for each in (await replica.webhooks.deliveries(ADMIN, watched, cursor=None, limit=50)).items}
    assert states == {"failed"}, "nothing is due to it any more"
    async with database.reading() as session:
        entry = (await session.scalars(select(AuditEntry).where(col(AuditEntry.action) == "webhook.disable"))).one()
    assert (entry.actor, entry.subject) == ("hub", watched)


async def test_a_receiver_that_is_gone_is_told_nothing_more_until_somebody_enables_it(replica: Replica) -> None:
    webhook = await replica.add()
    await happen(replica.database, "rollout.halted", "rollout.paused")
    replica.receiver.answers = [410]
    await replica.go()
    assert await replica.state(webhook) == ("disabled", "gone")
    assert len(replica.receiver.got) == 1
    await happen(replica.database, "rollout.missed")
    await replica.go(days=1)
    assert len(replica.receiver.got) == 1
    with pytest.raises(ConflictError) as refusal:
        await replica.webhooks.test(ADMIN, webhook)
    assert refusal.value.code == "webhook_disabled"
    assert (await replica.webhooks.enable(ADMIN, webhook)).state == "enabled"
    await happen(replica.database, "rollout.resumed")
    await replica.go()
    assert [got.event["type"] for got in replica.receiver.got] == ["rollout.halted", "rollout.resumed"]


async def test_a_receiver_that_has_too_much_to_do_gets_nothing_until_its_time(replica: Replica) -> None:
    webhook = await replica.add()
    await happen(replica.database, "rollout.n1", "rollout.n2", "rollout.n3")
    replica.receiver.answers = [(429, {"retry-after": "120"})]
    await replica.go()
    await replica.go(seconds=119)
    assert len(replica.receiver.got) == 1
    await replica.go(seconds=1)
    assert len(replica.receiver.got) == 4
    assert await replica.states(webhook) == ["done"] * 3


async def test_a_slow_receiver_holds_up_no_other_one(replica: Replica, database: Database, clock: MovableClock) -> None:
    slow, quick = replica.receiver, Receiver()
    try:
        await replica.add()
        await replica.webhooks.create(ADMIN, quick.url, [])
        slow.wait.clear()
        await happen(database, *[f"rollout.n{number}" for number in range(5)])
        await replica.worker.look()
        await asyncio.to_thread(quick.until, 5)
        assert len(slow.got) == 1, "one at a time"
        slow.wait.set()
        await replica.worker.idle()
        assert len(slow.got) == 5
    finally:
        quick.close()


async def test_two_replicas_send_nothing_twice(
    replica: Replica, database: Database, clock: MovableClock, receiver: Receiver
) -> None:
    await replica.add()
    await happen(database, *[f"rollout.n{number}" for number in range(20)])
    others = [Replica(database, clock, receiver) for _ in range(3)]
    await asyncio.gather(*(each.go() for each in [replica, *others]))
    assert len(receiver.got) == 20
    assert len({got.message for got in receiver.got}) == 20
    for each in others:
        await each.worker.stop()


async def test_what_a_dead_replica_had_claimed_is_sent_by_another(replica: Replica, clock: MovableClock) -> None:
    webhook = await replica.add()
    await happen(replica.database, "rollout.halted")
    await replica.queue.fill()
    claimed = await replica.queue.claim(webhook)
    assert claimed is not None
    assert replica.secrets[webhook].removeprefix("whsec_") not in repr(claimed)
    assert await replica.queue.claim(webhook) is None
    await replica.go(seconds=CLAIM.total_seconds() - 1)
    assert replica.receiver.got == []
    await replica.go(seconds=1)
    assert len(replica.receiver.got) == 1
    assert (await replica.only(webhook)).attempts == 1


async def test_a_worker_that_is_stopped_leaves_what_it_was_at(replica: Replica, receiver: Receiver) -> None:
    await replica.add()
    await happen(replica.database, "rollout.halted")
    receiver.wait.clear()
    await replica.worker.look()
    await asyncio.to_thread(receiver.until, 1)
    await replica.worker.stop()
    receiver.wait.set()
    other = Replica(replica.database, replica.clock, receiver)
    await other.go(seconds=CLAIM.total_seconds())
    assert len({got.message for got in receiver.got}) == 1
    assert len(receiver.got) == 2, "at least once"
    await other.worker.stop()


async def test_an_attempt_that_comes_back_late_changes_nothing(replica: Replica, clock: MovableClock) -> None:
    webhook = await replica.add()
    await happen(replica.database, "rollout.halted")
    await replica.queue.fill()
    late = await replica.queue.claim(webhook)
    assert late is not None
    await replica.go(seconds=CLAIM.total_seconds())
    failed = Answer(500, error="late")
    await replica.queue.note(late, failed, judge(failed, 1, clock.now(), 0.0))
    assert (await replica.only(webhook)).state == "done"
    assert await replica.state(webhook) == ("enabled", "")
    await replica.webhooks.delete(ADMIN, webhook)
    await replica.queue.note(late, failed, judge(failed, 1, clock.now(), 0.0))


async def test_what_ended_long_ago_is_forgotten_and_its_event_is_not(
    replica: Replica, database: Database, clock: MovableClock
) -> None:
    webhook = await replica.add()
    await happen(database, "rollout.halted")
    await replica.go()
    replica.receiver.status = 500
    await happen(database, "rollout.paused")
    await replica.go(days=6)
    await replica.queue.sweep()
    assert len((await replica.webhooks.deliveries(ADMIN, webhook, cursor=None, limit=5)).items) == 2
    clock.move(days=2)
    await replica.queue.sweep()
    (left,) = (await replica.webhooks.deliveries(ADMIN, webhook, cursor=None, limit=5)).items
    assert (left.type, left.state) == ("rollout.paused", "due")
    async with database.reading() as session:
        assert len(list(await session.scalars(select(HubEvent)))) == 2


async def test_figures(replica: Replica, database: Database, clock: MovableClock) -> None:
    empty = await webhook_figures(database, clock.now())
    assert (empty.webhooks, empty.due, empty.failed, empty.late_s) == (
        dict.fromkeys(("enabled", "failing", "disabled"), 0),
        0,
        0,
        0,
    )
    await replica.add()
    await happen(database, "rollout.halted", "rollout.paused")
    await replica.queue.fill()
    figures = await webhook_figures(database, START + timedelta(seconds=90))
    assert (figures.due, figures.late_s) == (2, 90)

"""Brings events to webhooks. Every worker of every replica does so; a receiver that is slow holds up no other one."""

import asyncio
import random
from contextlib import suppress
from typing import Final

import structlog

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.webhook_schedule import judge
from sdx_hub.domain.webhook_signing import headers
from sdx_hub.observing import WEBHOOK_ATTEMPTS, observed
from sdx_hub.services.webhooks.queue import Claimed, DeliveryQueue
from sdx_hub.services.webhooks.sending import Sender

LOOK_S: Final = 1.0
_log = structlog.get_logger(__name__)


class DeliveryWorker:
    """Of one process.

    Args:
        queue: What is due.
        sender: How it is sent.
        clock: Of the hub.
    """

    def __init__(self, queue: DeliveryQueue, sender: Sender, clock: Clock) -> None:
        self._queue = queue
        self._sender = sender
        self._clock = clock
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> None:
        """Begin with whatever is due, one message at a time for each receiver."""
        if not await self._queue.fill():
            return
        for webhook in await self._queue.waiting():
            if webhook not in self._at_work:
                self._at_work[webhook] = asyncio.create_task(self._deliver_all(webhook), name=f"webhook {webhook}")

    async def idle(self) -> None:
        """Wait until nothing is at work."""
        while self._at_work:
            await asyncio.wait(list(self._at_work.values()))

    async def stop(self) -> None:
        """What is at work is due again when its claim ends."""
        for task in list(self._at_work.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._sender.close()

    async def _deliver_all(self, webhook: str) -> None:
        try:
            while (claimed := await self._queue.claim(webhook)) is not None:
                await self._deliver(claimed)
        except Exception as error:
            # The database is away: what is claimed is due again by itself.
            _log.warning("webhook_delivery_broken", webhook=webhook, error=repr(error)[:200])
        finally:
            self._at_work.pop(webhook, None)

    async def _deliver(self, claimed: Claimed) -> None:
        now = self._clock.now()
        # The webhook's id is random: receivers of several hubs see no id twice.
        message = f"msg_{claimed.webhook.removeprefix('wh-')}_{claimed.event}"
        signed = headers(claimed.secret, message, int(now.timestamp()), claimed.body)
        answer = await self._sender.send(claimed.url, signed, claimed.body, now)
        outcome = judge(answer, claimed.attempts + 1, self._clock.now(), random.random())  # noqa: S311 - jitter
        await self._queue.note(claimed, answer, outcome)
        observed.count(WEBHOOK_ATTEMPTS["taken" if outcome.verdict == "done" else "failed"])
        if outcome.verdict != "done":
            _log.warning(
                "webhook_failed",
                webhook=claimed.webhook,
                event_id=claimed.event,
                status=answer.status,
                attempt=claimed.attempts + 1,
            )

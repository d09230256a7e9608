"""`/metrics`: what an operator watches, in Prometheus' text format.

The hub counts in plain numbers as it works, for a counter of prometheus_client costs more than a poll. They are taken
over once a second, so that a worker that is not asked has its figures in the shared folder as well. Nothing here grows
with the number of devices.
"""

import os
import shutil
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter
from prometheus_client import generate_latest as generate
from prometheus_client.multiprocess import MultiProcessCollector

from sdx_hub import observing
from sdx_hub.adapters.clock import CorrectedClock
from sdx_hub.api import series
from sdx_hub.api.poll import PollTally
from sdx_hub.api.shedding import LoopLag, Shedding
from sdx_hub.domain.rollout.facts import Rule
from sdx_hub.observing import observed
from sdx_hub.services.devices.fleet_state import FleetFigures
from sdx_hub.services.events.feed import EventFeed
from sdx_hub.services.releases.upload_figures import UploadFigures
from sdx_hub.services.repositories.trust_alarms import Expiry
from sdx_hub.services.rollouts.engine.rollout_figures import RolloutFigures
from sdx_hub.services.webhooks.webhook_figures import WebhookFigures

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of prometheus_client: where several workers share their counters."""


class Sources(Struct, frozen=True):
    """Where the figures come from.

    Attributes:
        expiries: Of every role, as this worker knows them.
        connections: To the database, by pool.
        queues: How many wait, by queue.
        uploads, rollouts, webhooks: Ask the database.
        folders: On whose disks payloads need room.
        stale_s: Age at which the fleet's memory does not count any more.
    """

    version: str
    polls: PollTally
    lag: LoopLag
    shedding: Shedding
    fleet: Callable[[], FleetFigures]
    expiries: Callable[[], Sequence[Expiry]]
    clock: CorrectedClock
    connections: Callable[[], Mapping[str, int]]
    queues: Mapping[str, Callable[[], int]]
    uploads: Callable[[], Awaitable[UploadFigures]]
    rollouts: Callable[[], Awaitable[RolloutFigures]]
    webhooks: Callable[[], Awaitable[WebhookFigures]]
    events: EventFeed
    folders: Mapping[str, Path]
    stale_s: float


class Metrics:
    """This worker's figures."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._taken: Tally[tuple[Counter, tuple[str, ...]]] = Tally()
        series.BUILD.labels(sources.version).set(1)
        series.STARTED.set(time.time())
        series.STALE_AFTER.set(sources.stale_s)
        for step in observing.STEPS:
            series.STEP_FAILURES.labels(step)
            series.STEP_SECONDS.labels(step)
        for rule in get_args(Rule):
            series.ROLLOUT_DECISIONS.labels(rule)

    async def note(self) -> None:
        """Take over what was counted since the last time, and what can be read off at once."""
        sources = self._sources
        for answer in PollTally.ANSWERS:
            self._raise(series.POLLS, getattr(sources.polls, answer), answer)
        for status, name in observing.REPORTS.items():
            self._raise(series.REPORTS, observed.counts[name], status)
        self._raise(series.SHED, sources.shedding.shed)
        self._raise(series.DATABASE_ERRORS, observed.counts[observing.DATABASE_ERRORS])
        self._raise(series.BLOB_STORE_ERRORS, observed.counts[observing.BLOB_STORE_ERRORS])
        self._raise(series.DIRECTOR_DOCUMENTS, observed.counts[observing.DIRECTOR_DOCUMENTS])
        self._raise(series.IMAGE_TIMESTAMPS, observed.counts[observing.IMAGE_TIMESTAMPS])
        for outcome, name in observing.WEBHOOK_ATTEMPTS.items():
            self._raise(series.ATTEMPTS, observed.counts[name], outcome)
        for name in [name for name in observed.counts if name.startswith(observing.ROLLOUT_DECISIONS)]:
            rule = name.removeprefix(observing.ROLLOUT_DECISIONS)
            self._raise(series.ROLLOUT_DECISIONS, observed.counts[name], rule)
        self._raise(series.STREAMS_REFUSED, sources.events.refused)
        for step, failures in observed.failures.items():
            self._raise(series.STEP_FAILURES, failures, step)
        for loop, failures in observed.loop_failures.items():
            self._raise(series.LOOP_FAILURES, failures, loop)
        for step, times in observed.take_seconds().items():
            for seconds in times:
                series.STEP_SECONDS.labels(step).observe(seconds)
        self._read_off()

    async def note_rarely(self) -> None:
        """Set what has to be asked for: metadata, uploads, rollouts, webhooks, disks."""
        self._note_expiries()
        uploads = await self._sources.uploads()
        series.UPLOADS.set(uploads.open)
        series.UPLOAD_BYTES.set(uploads.bytes)
        await self._note_outwards()
        for name, folder in self._sources.folders.items():
            usage = shutil.disk_usage(folder)
            series.FREE.labels(name).set(usage.free)
            series.SIZE.labels(name).set(usage.total)

    async def _note_outwards(self) -> None:
        rollouts, webhooks = await self._sources.rollouts(), await self._sources.webhooks()
        for state, count in rollouts.rollouts.items():
            series.ROLLOUTS.labels(state).set(count)
        series.ROLLOUT_MEMBERS.set(rollouts.in_flight)
        for state, count in webhooks.webhooks.items():
            series.WEBHOOKS.labels(state).set(count)
        series.DELIVERIES.labels("due").set(webhooks.due)
        series.DELIVERIES.labels("failed").set(webhooks.failed)
        series.DELIVERIES_LATE.set(webhooks.late_s)

    async def render(self) -> tuple[str, str]:
        """The text of `/metrics` and its media type."""
        await self.note()
        self._note_expiries()
        registry = REGISTRY
        if MULTIPROCESS_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate(registry).decode(), CONTENT_TYPE_LATEST

    def _raise(self, counter: Counter, value: int, *labels: str) -> None:
        """Bring a counter up to a number that only grows."""
        child = counter.labels(*labels) if labels else counter
        child.inc(value - self._taken[counter, labels])
        self._taken[counter, labels] = value

    def _read_off(self) -> None:
        sources, fleet = self._sources, self._sources.fleet()
        for state, count in fleet.devices.items():
            series.DEVICES.labels(state).set(count)
        series.STALENESS.set(fleet.staleness_s)
        series.REFRESH_ROWS.set(fleet.last_refresh_rows)
        series.BEHIND.set(fleet.write_behind_pending)
        series.BEHIND_LAG.set(fleet.write_behind_lag_s)
        series.LOOP_LAG.set(sources.lag.lag_s)
        series.STREAMS.set(sources.events.open)
        series.STREAMS_MOST.set(sources.events.most)
        series.ROLLOUT_LEADER.set(observed.marks.get(observing.ROLLOUT_LEADER, 0))
        series.ROLLOUT_TICK.set(observed.marks.get(observing.ROLLOUT_TICKED_S, 0))
        series.AT_WORK.set(sources.shedding.at_work)
        series.CLOCK_OFFSET.set(sources.clock.offset.total_seconds())
        for pool, count in sources.connections().items():
            series.CONNECTIONS.labels(pool).set(count)
        for queue, waiting in sources.queues.items():
            series.WAITING.labels(queue).set(waiting())

    def _note_expiries(self) -> None:
        late: Tally[str] = Tally()
        for each in self._sources.expiries():
            left_s = (each.expires_at - self._sources.clock.now()).total_seconds()
            series.EXPIRY.labels(each.repository, each.role).set(left_s)
            late[each.repository] += each.half_life_passed
        for repository, count in late.items():
            series.ALARMS.labels(repository).set(count)

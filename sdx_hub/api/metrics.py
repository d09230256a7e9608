"""`/metrics`: what an operator watches, in Prometheus' text format.

Counters are kept by prometheus_client. Gauges are read when somebody asks: the fleet's memory has them anyway.
"""

import os
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as generate
from prometheus_client.multiprocess import MultiProcessCollector

from sdx_hub.adapters.clock import Clock
from sdx_hub.api.poll import PollTally
from sdx_hub.services.repositories.trust_alarms import Expiry

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of prometheus_client: where several workers share their counters."""

REQUESTS = Counter("sdx_http_requests", "Answered requests, without polls.", ["method", "path", "status"])
SECONDS = Histogram(
    "sdx_http_request_seconds",
    "Time to answer a request, in seconds.",
    ["method", "path"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60),
)
POLLS = Counter("sdx_polls", "Polls of devices by answer.", ["answer"])
DEVICES = Gauge("sdx_devices", "Devices by state.", ["state"], multiprocess_mode="mostrecent")
EXPIRY = Gauge(
    "sdx_metadata_expiry_seconds",
    "Seconds until signed metadata expires; negative once it has.",
    ["repository", "role"],
    multiprocess_mode="mostrecent",
)
ALARMS = Gauge(
    "sdx_metadata_alarms", "Roles that are past half of their life.", ["repository"], multiprocess_mode="mostrecent"
)


class Metrics:
    """This worker's figures.

    Args:
        polls: Counted without prometheus_client, which would cost more than the poll itself.
        expiries: Of every role, as this worker knows them.
        clock: For the time that is left.
    """

    def __init__(self, polls: PollTally, expiries: Callable[[], Sequence[Expiry]], clock: Clock) -> None:
        self._polls = polls
        self._counted = PollTally()
        self._expiries = expiries
        self._clock = clock

    def count_polls(self) -> None:
        """Bring the counters up to the tally."""
        for answer in PollTally.ANSWERS:
            now = getattr(self._polls, answer)
            POLLS.labels(answer).inc(now - getattr(self._counted, answer))
            setattr(self._counted, answer, now)

    def note_expiries(self) -> None:
        """Set the gauges of signed metadata."""
        late: Tally[str] = Tally()
        for each in self._expiries():
            left_s = (each.expires_at - self._clock.now()).total_seconds()
            EXPIRY.labels(each.repository, each.role).set(left_s)
            late[each.repository] += each.half_life_passed
        for repository, count in late.items():
            ALARMS.labels(repository).set(count)

    def render(self, devices: Mapping[str, int]) -> tuple[str, str]:
        """The text of `/metrics` and its media type."""
        self.count_polls()
        self.note_expiries()
        for state, count in devices.items():
            DEVICES.labels(state).set(count)
        registry = REGISTRY
        if MULTIPROCESS_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate(registry).decode(), CONTENT_TYPE_LATEST

"""Every series of `/metrics`, by Prometheus' conventions. No id is a label: a million devices would be as many series.

Where a hub has several workers, each keeps its own values in a shared folder; a gauge says how they become one.
"""

from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]

_Together = Literal["sum", "max", "mostrecent"]


def _gauge(name: str, about: str, together: _Together, labels: tuple[str, ...] = ()) -> Gauge:
    return Gauge(f"sdx_{name}", about, labels, multiprocess_mode=together)


BUILD: Final = _gauge("build_info", "1, with the hub's version.", "max", ("version",))
STARTED: Final = _gauge("start_time_seconds", "When the youngest worker started, in seconds since 1970.", "max")

REQUESTS: Final = Counter("sdx_http_requests", "Answered requests, without polls.", ["method", "path", "status"])
SECONDS: Final = Histogram(
    "sdx_http_request_seconds",
    "Time to answer a request, in seconds.",
    ["method", "path"],
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60),
)
AT_WORK: Final = _gauge("http_requests_in_flight", "Requests at work now, without polls.", "sum")
SHED: Final = Counter("sdx_http_requests_shed", "Requests that were sent away because the hub had too many.")
LOOP_LAG: Final = _gauge("event_loop_lag_seconds", "How late the event loop comes to what is due.", "max")

POLLS: Final = Counter("sdx_polls", "Polls of devices by answer.", ["answer"])
DEVICES: Final = _gauge("devices", "Devices by state.", "mostrecent", ("state",))
STALENESS: Final = _gauge("fleet_staleness_seconds", "Age of what polls are answered from.", "max")
STALE_AFTER: Final = _gauge("fleet_stale_after_seconds", "The age at which no poll is answered any more.", "max")
REFRESH_ROWS: Final = _gauge("fleet_refresh_rows", "Devices that the last look with a result found changed.", "max")
BEHIND: Final = _gauge("write_behind_pending", "Sightings of devices that are not written yet.", "sum")
BEHIND_LAG: Final = _gauge("write_behind_lag_seconds", "Age of the oldest of them.", "max")
WAITING: Final = _gauge("queue_waiting", "Who waits for the next batch.", "sum", ("queue",))

REPORTS: Final = Counter("sdx_reports", "Signed reports of devices by what became of them.", ["status"])
DIRECTOR_DOCUMENTS: Final = Counter("sdx_director_documents_signed", "Instructions that were signed for devices.")
IMAGE_TIMESTAMPS: Final = Counter("sdx_image_timestamps_signed", "Timestamps of the image repository that were signed.")
EXPIRY: Final = _gauge(
    "metadata_expiry_seconds",
    "Seconds until signed metadata expires; negative once it has.",
    "mostrecent",
    ("repository", "role"),
)
ALARMS: Final = _gauge("metadata_alarms", "Roles that are past half of their life.", "mostrecent", ("repository",))

STEP_SECONDS: Final = Histogram(
    "sdx_step_seconds",
    "Time of a step of the hub's work, in seconds.",
    ["step"],
    buckets=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
STEP_FAILURES: Final = Counter("sdx_step_failures", "Steps that ended in an error of the hub's own.", ["step"])
LOOP_FAILURES: Final = Counter("sdx_loop_failures", "Rounds of repeated work that failed.", ["loop"])
DATABASE_ERRORS: Final = Counter("sdx_database_errors", "Times that the database was busy or away.")
BLOB_STORE_ERRORS: Final = Counter("sdx_blob_store_errors", "Times that the payloads' store was full or away.")
CONNECTIONS: Final = _gauge("database_connections_in_use", "Connections to the database at work.", "sum", ("pool",))

ROLLOUTS: Final = _gauge("rollouts", "Rollouts by state.", "mostrecent", ("state",))
ROLLOUT_MEMBERS: Final = _gauge(
    "rollout_members_in_flight", "Devices that are on their way to a rollout's release.", "mostrecent"
)
ROLLOUT_DECISIONS: Final = Counter("sdx_rollout_decisions", "Decisions on rollouts by rule or command.", ["rule"])
ROLLOUT_LEADER: Final = _gauge("rollout_leader", "1 where rollouts are looked after here.", "max")
ROLLOUT_TICK: Final = _gauge(
    "rollout_last_tick_timestamp_seconds", "When rollouts were looked after here last, in seconds since 1970.", "max"
)
STREAMS: Final = _gauge("event_streams_open", "Streams of events that are open.", "sum")
STREAMS_MOST: Final = _gauge("event_streams_most", "Streams of events that may be open.", "sum")
STREAMS_REFUSED: Final = Counter("sdx_event_streams_refused", "Streams of events that were one too many.")
WEBHOOKS: Final = _gauge("webhooks", "Webhooks by state.", "mostrecent", ("state",))
DELIVERIES: Final = _gauge(
    "webhook_deliveries", "Events on their way to webhooks, or given up.", "mostrecent", ("state",)
)
DELIVERIES_LATE: Final = _gauge("webhook_late_seconds", "How late the delivery is that is due longest.", "mostrecent")
ATTEMPTS: Final = Counter("sdx_webhook_attempts", "Attempts to tell a webhook, by how they ended.", ["outcome"])

UPLOADS: Final = _gauge("uploads_open", "Payloads on their way in.", "mostrecent")
UPLOAD_BYTES: Final = _gauge("uploads_open_bytes", "Bytes of them that have arrived.", "mostrecent")
FREE: Final = _gauge("storage_free_bytes", "Room on the disk of a folder.", "mostrecent", ("folder",))
SIZE: Final = _gauge("storage_size_bytes", "Size of the disk of a folder.", "mostrecent", ("folder",))
CLOCK_OFFSET: Final = _gauge("clock_offset_seconds", "The database server's time minus this machine's.", "mostrecent")

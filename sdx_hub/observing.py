"""What the hub sees of its own work: steps with their times and failures, and counts; for `/metrics` and for traces.

Kept as plain numbers, which `api.metrics` takes over every second: prometheus_client may not be imported before the
main process has named the folder that its workers share, and this module is imported everywhere.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Final

from sdx_hub.domain.errors import HubError

DATABASE_READ: Final = "database.read"
DATABASE_WRITE: Final = "database.write"
REPORT_COMMIT: Final = "report.commit"
ROLLOUT_TICK: Final = "rollout.tick"
SIGN_DIRECTOR: Final = "sign.director"
SIGN_IMAGE: Final = "sign.image"
BLOB_STAT: Final = "blob.stat"
BLOB_READ: Final = "blob.read"
BLOB_PUT: Final = "blob.put"
BLOB_DELETE: Final = "blob.delete"
_SIGNING: Final = frozenset({SIGN_DIRECTOR, SIGN_IMAGE})
"""Nobody's input is at fault where the hub cannot sign."""
STEPS: Final = (
    DATABASE_READ,
    DATABASE_WRITE,
    REPORT_COMMIT,
    ROLLOUT_TICK,
    SIGN_DIRECTOR,
    SIGN_IMAGE,
    BLOB_STAT,
    BLOB_READ,
    BLOB_PUT,
    BLOB_DELETE,
)
"""What is timed. A step fails when it ends in an error that is not its caller's: a missing blob is none."""

BLOB_STORE_ERRORS: Final = "blob_store_errors"
DATABASE_ERRORS: Final = "database_errors"
DIRECTOR_DOCUMENTS: Final = "director_documents_signed"
IMAGE_TIMESTAMPS: Final = "image_timestamps_signed"
ROLLOUT_DECISIONS: Final = "rollout_decisions_"
"""With the name of the rule, or of a person's command: how often it decided."""
WEBHOOK_ATTEMPTS: Final = {outcome: f"webhook_attempts_{outcome}" for outcome in ("taken", "failed")}
"""By how they ended."""
REPORTS: Final = {status: f"reports_{status}" for status in ("accepted", "duplicate", "refused")}
"""By what became of a report."""

ROLLOUT_LEADER: Final = "rollout_leader"
"""A mark: 1 while this process looks after the rollouts, else 0."""
ROLLOUT_TICKED_S: Final = "rollout_ticked_s"
"""A mark: when this process looked after all of them last, in seconds since 1970."""

Span = Callable[[str], AbstractContextManager[object]]


class Observed:
    """What was seen in this process.

    Attributes:
        counts: By name.
        marks: By name: what is so now.
        failures: By step.
        loop_failures: By the name of repeated work.
        seconds: The times of each step, since `take_seconds`.
        span: Opens a span of a trace; None without tracing.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.marks: dict[str, float] = {}
        self.failures: Counter[str] = Counter()
        self.loop_failures: Counter[str] = Counter()
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.span: Span | None = None

    def count(self, name: str, by: int = 1) -> None:
        """Count something that happened."""
        self.counts[name] += by

    def mark(self, name: str, value: float) -> None:
        """Note what is so now."""
        self.marks[name] = value

    def step(self, name: str) -> "Step":
        """A context in which one of `STEPS` is done."""
        return Step(self, name)

    @contextmanager
    def failing(self, name: str) -> Iterator[None]:
        """More of a step that was timed before: a failure counts, and nothing else."""
        try:
            yield
        except Exception as error:
            self.note_failure(name, error)
            raise

    def note_failure(self, name: str, error: BaseException | None) -> None:
        """Count how a step ended, where it failed."""
        if is_failure(error) or (name in _SIGNING and isinstance(error, Exception)):
            self.failures[name] += 1

    def take_seconds(self) -> dict[str, list[float]]:
        """The times since the last call. Everything else only grows."""
        taken, self.seconds = self.seconds, defaultdict(list)
        return taken


class Step:
    """See `Observed.step`."""

    __slots__ = ("_name", "_observed", "_span", "_started")

    def __init__(self, observed: Observed, name: str) -> None:
        self._observed = observed
        self._name = name
        self._span: AbstractContextManager[object] | None = None
        self._started = 0.0

    def __enter__(self) -> None:
        if self._observed.span is not None:
            self._span = self._observed.span(self._name)
            self._span.__enter__()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._observed.seconds[self._name].append(time.perf_counter() - self._started)
        self._observed.note_failure(self._name, error)
        if self._span is not None:
            self._span.__exit__(kind, error, trace)


def is_failure(error: BaseException | None) -> bool:
    """Whether something broke: a refusal is the caller's, and a cancelled request is nobody's."""
    return isinstance(error, Exception) and not (isinstance(error, HubError) and error.status < 500)


observed: Final = Observed()
"""This process's."""

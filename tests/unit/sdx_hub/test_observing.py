"""Steps: what counts as a failure, and whose spans they become."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sdx_hub.domain.errors import ConflictError, NotFound, Unavailable
from sdx_hub.observing import BLOB_READ, DATABASE_READ, SIGN_DIRECTOR, Observed


def ended(observed: Observed, step: str, error: BaseException | None) -> None:
    with pytest.raises(type(error)), observed.step(step):
        raise error


def test_a_step_is_timed_whether_it_fails_or_not() -> None:
    observed = Observed()
    with observed.step(DATABASE_READ):
        pass
    ended(observed, DATABASE_READ, OSError())
    times = observed.take_seconds()
    assert len(times[DATABASE_READ]) == 2
    assert all(seconds >= 0 for seconds in times[DATABASE_READ])
    assert observed.take_seconds() == {}, "they are taken once"


@pytest.mark.parametrize(
    ("error", "step", "failures"),
    [
        (OSError(), DATABASE_READ, 1),
        (Unavailable("away"), DATABASE_READ, 1),
        (NotFound("none"), BLOB_READ, 0),
        (ConflictError("moved on"), DATABASE_READ, 0),
        (ConflictError("no key for it"), SIGN_DIRECTOR, 1),
        (asyncio.CancelledError(), DATABASE_READ, 0),
        (GeneratorExit(), BLOB_READ, 0),
    ],
)
def test_a_failure_is_the_hubs_own(error: BaseException, step: str, failures: int) -> None:
    observed = Observed()
    ended(observed, step, error)
    assert observed.failures[step] == failures


def test_the_rest_of_a_step_counts_failures_and_no_time() -> None:
    observed = Observed()
    with pytest.raises(OSError), observed.failing(BLOB_READ):
        raise OSError
    assert observed.failures[BLOB_READ] == 1
    assert observed.take_seconds() == {}


def test_a_step_is_a_span_where_there_are_any() -> None:
    seen: list[str] = []

    @contextmanager
    def span(name: str) -> Iterator[None]:
        seen.append(f"+{name}")
        try:
            yield
        finally:
            seen.append(f"-{name}")

    observed = Observed()
    observed.span = span
    with observed.step(DATABASE_READ), observed.step(BLOB_READ):
        pass
    ended(observed, SIGN_DIRECTOR, OSError())
    assert seen == [
        *("+database.read", "+blob.read", "-blob.read", "-database.read"),
        *("+sign.director", "-sign.director"),
    ]

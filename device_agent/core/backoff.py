"""How long to wait before trying again: exponential, full jitter, bounded, and never sooner than asked for.

Source: "Exponential Backoff And Jitter", AWS Architecture Blog (2015), the full-jitter variant. A fleet that lost its
hub comes back spread out instead of in step.
"""

from collections.abc import Callable

FINAL_BUT_RETRIED = frozenset({408, 429})
_FIRST_POLL_S = 2.0


def delay_s(
    attempt: int,
    uniform: Callable[[float, float], float],
    *,
    base_s: float = 2.0,
    longest_s: float = 900.0,
    retry_after_s: float = 0.0,
) -> float:
    """Seconds to wait before the next try.

    Args:
        attempt: How many tries have failed, from 1.
        uniform: Random source, `random.uniform` or a test's.
        base_s: Ceiling of the first wait; it doubles with each failure.
        longest_s: Bound of the ceiling, and of what a hub may ask for (a mistaken Retry-After must not park a craft).
        retry_after_s: What the hub asked for; jitter comes on top of it, or the fleet would return in step.
    """
    # The exponent is bounded too: 2.0 ** 2000 overflows after a long night without a link.
    ceiling = min(longest_s, base_s * 2.0 ** min(max(attempt, 1) - 1, 32))
    return min(max(retry_after_s, 0.0), longest_s) + uniform(0.0, ceiling)


def poll_again_s(
    failures: int,
    interval_s: float,
    uniform: Callable[[float, float], float],
    *,
    longest_s: float = 300.0,
    retry_after_s: float = 0.0,
) -> float:
    """Seconds until the next poll after some that failed.

    The first wait is spread over the hub's own interval: a fleet whose hub is away for a moment asks about twice as
    often as in good times, and comes back so. Beginning with two seconds it would ask six times as often, and the hub
    that has just come back would go down again.

    Args:
        failures: Polls in a row that failed, from 1.
        interval_s: What the hub last said; 0 where it has not answered yet.
        uniform: As in `delay_s`.
        longest_s: Bound of the wait; an interval that is longer counts instead.
        retry_after_s: As in `delay_s`.
    """
    return delay_s(
        failures,
        uniform,
        base_s=max(_FIRST_POLL_S, interval_s),
        longest_s=max(longest_s, interval_s),
        retry_after_s=retry_after_s,
    )


def is_final(status: int) -> bool:
    """Whether an HTTP status means that asking again cannot help: 4xx other than 408 and 429."""
    return 400 <= status < 500 and status not in FINAL_BUT_RETRIED


def parse_retry_after(text: str | None) -> float:
    """Seconds of a Retry-After header; 0.0 where it is missing or a date.

    A date would need a trusted wall clock (RFC 9110, 10.2.3), which a craft does not have: jittered backoff does.
    """
    cleaned = (text or "").strip()
    # isascii as well: str.isdigit accepts digits that float() and int() read as something else or not at all.
    return float(int(cleaned)) if cleaned.isascii() and cleaned.isdigit() and len(cleaned) <= 9 else 0.0

"""When a message is tried again, and when it and its webhook are given up: Standard Webhooks 1.0.0, "Deliverability".

    2xx                     done
    410                     the webhook is disabled: its receiver wants no more
    429, 502, 503, 504      tried again; everything else for this receiver waits as well
    anything else           tried again

Ten attempts within 76 hours, then the message is given up. A webhook that has failed for five days is disabled.
"""

from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct

DELAYS_S: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After the first attempt that failed, the second, and so on: 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h."""
MAX_ATTEMPTS: Final = len(DELAYS_S) + 1
JITTER: Final = 0.1
"""A delay is longer by up to this part: what failed together is not tried again together."""
GIVE_UP: Final = timedelta(days=5)
THROTTLED_S: Final = 60
MAX_RETRY_AFTER_S: Final = 86_400
"""A receiver that asks for more gets this."""
_THROTTLES: Final = frozenset({429, 502, 503, 504})

Verdict = Literal["done", "again", "given_up", "gone"]


class Answer(Struct, frozen=True):
    """How an attempt ended.

    Attributes:
        status: HTTP status; 0 where there was no answer.
        retry_after_s: What the receiver asked for; 0 for nothing.
        error: For people, where it failed; without the receiver's own words and without the path of the address.
    """

    status: int
    retry_after_s: int = 0
    error: str = ""


class Outcome(Struct, frozen=True):
    """What follows.

    Attributes:
        next_at: When the message is tried again.
        others_wait_until: Until when everything else for this receiver waits; None where it does not.
    """

    verdict: Verdict
    next_at: datetime
    others_wait_until: datetime | None = None


def judge(answer: Answer, attempts: int, now: datetime, chance: float) -> Outcome:
    """What follows of an attempt.

    Args:
        answer: Its end.
        attempts: How many there were, this one included.
        now: UTC.
        chance: Of 0 to 1, for the jitter.
    """
    if 200 <= answer.status < 300:
        return Outcome("done", now)
    if answer.status == 410:
        return Outcome("gone", now)
    asked = timedelta(seconds=min(answer.retry_after_s, MAX_RETRY_AFTER_S))
    throttled = max(asked, timedelta(seconds=THROTTLED_S if answer.status in _THROTTLES else 0))
    wait_until = now + throttled if throttled else None
    if attempts >= MAX_ATTEMPTS:
        return Outcome("given_up", now, wait_until)
    delay = timedelta(seconds=DELAYS_S[attempts - 1] * (1 + JITTER * chance))
    return Outcome("again", now + max(delay, throttled), wait_until)


def is_hopeless(failing_since: datetime, now: datetime) -> bool:
    """Whether a webhook that has failed since then is disabled."""
    return now - failing_since >= GIVE_UP

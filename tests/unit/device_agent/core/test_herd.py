"""A fleet whose hub fails: ten thousand devices, simulated over the delays that real agents keep.

The rate of polls is given in rates of good times, as a mean over five seconds.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable

import pytest

from device_agent.core.backoff import poll_again_s
from sdx_hub.domain.spreading import spread_s

DEVICES = 10_000
INTERVAL_S, JITTER_S = 60, 15
STEADY = DEVICES / (INTERVAL_S + JITTER_S / 2)
FAILS_AT_S = 200.0
WINDOW_S = 5

Refusal = Callable[[float, int], float | None]
"""By the time and the number of polls in its second: None for an answer, or the Retry-After of a refusal."""


def simulate(refusal: Refusal, until_s: float) -> tuple[Counter[int], set[int]]:
    """Polls by second, and the devices whose last poll was answered."""
    source = random.Random(1)
    due = [(source.random() * (INTERVAL_S + source.uniform(0, JITTER_S)), device, 0) for device in range(DEVICES)]
    heapq.heapify(due)
    polls: Counter[int] = Counter()
    content: set[int] = set()
    while due[0][0] < until_s:
        now_s, device, failures = due[0]
        polls[int(now_s)] += 1
        wait_s = refusal(now_s, polls[int(now_s)])
        if wait_s is None:
            failures = 0
            content.add(device)
            next_s = INTERVAL_S + source.uniform(0, JITTER_S)
        else:
            failures += 1
            content.discard(device)
            next_s = poll_again_s(failures, INTERVAL_S, source.uniform, retry_after_s=wait_s)
        heapq.heapreplace(due, (now_s + next_s, device, failures))
    return polls, content


def peak(polls: Counter[int], start_s: float, end_s: float) -> float:
    """The highest rate in between."""
    seconds = range(int(start_s), int(end_s) - WINDOW_S)
    return max(sum(polls[second + more] for more in range(WINDOW_S)) for second in seconds) / WINDOW_S / STEADY


@pytest.mark.parametrize("outage_s", [10, 60, 600])
def test_a_fleet_whose_hub_was_away_does_not_come_back_as_a_herd(outage_s: int) -> None:
    ends_s = FAILS_AT_S + outage_s
    polls, content = simulate(lambda now_s, _: 0.0 if FAILS_AT_S <= now_s < ends_s else None, ends_s + 700)
    assert peak(polls, 100, FAILS_AT_S) < 1.2, "the simulation's good times are good"
    assert peak(polls, FAILS_AT_S, ends_s + WINDOW_S + 1) < 2.5
    assert peak(polls, ends_s, ends_s + 700) < 2.5
    assert len(content) == DEVICES, "everybody is back"


def test_devices_that_are_told_when_to_come_make_no_more_polls_than_in_good_times() -> None:
    """What a hub says that cannot reach its database."""
    source = random.Random(2)
    ends_s = FAILS_AT_S + 120
    polls, content = simulate(
        lambda now_s, _: spread_s(INTERVAL_S, source.uniform) if FAILS_AT_S <= now_s < ends_s else None, ends_s + 700
    )
    assert peak(polls, FAILS_AT_S, ends_s + 700) < 1.6
    assert len(content) == DEVICES


def test_a_hub_that_sheds_what_is_too_much_comes_out_of_it() -> None:
    """Half of the fleet was switched on in one moment, and the hub carries hardly more than good times bring."""
    source = random.Random(3)
    most = int(1.3 * STEADY)

    def refusal(now_s: float, in_this_second: int) -> float | None:
        if FAILS_AT_S <= now_s < FAILS_AT_S + 30:
            return 0.0
        return spread_s(INTERVAL_S, source.uniform) if in_this_second > most else None

    polls, content = simulate(refusal, FAILS_AT_S + 1500)
    late = [count for second, count in polls.items() if second > FAILS_AT_S + 600]
    assert max(late) < 2 * most
    assert len(content) > 0.97 * DEVICES

"""The hub is killed (SIGKILL) at random moments while it is published to, polled and reported to.

Whatever it acknowledged must be there afterwards, and its audit chain must hold. On SQLite, the embedded default.
The three kinds of traffic run at the same time, so that a kill meets all of them; what it met is counted and printed.
"""

import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.traffic import Acknowledged, Polling, Publishing, Reporting, Traffic, check
from tests.support.fleet import start_fleet

ROUNDS = 50
ANSWERS = 14
"""A kill comes after so many answers to the publisher at the most: one release takes eleven."""


def wait_for_answers(traffic: Traffic, answers: int) -> None:
    """A moment that says something on a fast and on a slow machine alike."""
    end = time.monotonic() + 30
    while traffic.answers < answers and traffic.is_alive() and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_hub_killed_at_random_moments_loses_nothing_acknowledged(tmp_path: Path, say: Callable[[str], None]) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}, {ROUNDS} kills")
    moments = random.Random(seed)
    met: Counter[str] = Counter()
    with start_fleet(tmp_path / "fleet") as fleet:
        craft = fleet.new_craft(tmp_path / "craft", fleet.url)
        key = fleet.device_key(craft)
        yes = Acknowledged()
        for number in range(1, ROUNDS + 1):
            releases, reports = len(yes.releases), len(yes.reports)
            traffic: list[Traffic] = [
                Publishing(fleet, craft, yes, number),
                Polling(fleet, craft, yes, number),
                Reporting(fleet, craft, yes, number, key),
            ]
            for one in traffic:
                one.start()
            wait_for_answers(traffic[0], moments.randint(0, ANSWERS))
            time.sleep(moments.uniform(0.0, 0.03))
            killed_at = time.monotonic()
            fleet.hub.kill()
            for one in traffic:
                one.join(30)
                assert not one.is_alive()
                assert one.surprise is None, f"round {number}: {one.surprise!r}"
                assert one.lost is not None, "it ends with the hub"
                assert not one.turned_away, one.turned_away
                met[type(one).__name__] += 0.0 < one.unanswered_since < killed_at
            fleet.restart_hub()
            check(fleet, craft, yes, list(yes.releases)[releases:], yes.reports[reports:])
            yes.uploads.clear()
        check(fleet, craft, yes, list(yes.releases), yes.reports)
        assert fleet.doctor() == 0
        say(f"{len(yes.releases)} releases, {len(yes.reports)} reports and {ROUNDS} kills of the hub: nothing lost")
        say(f"requests under way at a kill: {dict(met)}")
        assert min(met.values()) >= ROUNDS / 25, met  # A poll is answered out of memory: few kills meet one.
        assert len(yes.reports) >= ROUNDS / 2
        assert len(yes.releases) >= ROUNDS / 8

"""The power is cut at every durable step of an update, and the craft still runs one whole set of software.

A two-component update (a folder with its health check, and a file), once good and once bad (its health check fails, so
that it is rolled back). Each cut is followed by boots until nothing is left to do, and what holds is looked at after
the cut and at the end:

1. Each component that is current is whole, byte by byte, and of the old or of the new release.
2. Both are of one release: what starts at the next boot, before the agent does, never finds a mixed set.
3. What was activated (the device's own command) or checked was one whole set, always.
4. No release counter floor ever shrinks.
5. The hub has exactly one final result of the action, the right one, and an inventory that says what runs.
"""

from collections.abc import Callable

import pytest

from tests.faults.lab import BAD, GOOD, Lab, points_of, summary, sweep
from tests.faults.medium import Loss
from tests.faults.power_cut import Cut

Say = Callable[[str], None]

REDUCED_STEP = 13
"""The normal suite cuts at every so many points, each time with the next kind of loss."""
SAMPLE_STEP, RECOVERY_STEP = 29, 11
"""For a second cut while the first is recovered from: first cuts, and second cuts for each of them."""


@pytest.mark.slow
@pytest.mark.xdist_group("power-cut")
@pytest.mark.parametrize("kind", [GOOD, BAD])
def test_power_cut_sweep_reduced(lab: Lab, kind: str, say: Say) -> None:
    """Every thirteenth point; the kinds of loss take turns."""
    points = points_of(lab, kind)
    losses = list(Loss)
    chosen = range(1, len(points) + 1, REDUCED_STEP)
    cuts = [[Cut(at, losses[number % len(losses)])] for number, at in enumerate(chosen)]
    say(summary(kind, "cuts", points, sweep(lab, kind, cuts)))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("kind", [GOOD, BAD])
def test_power_cut_sweep_full(lab: Lab, kind: str, loss: Loss, say: Say) -> None:
    """Every point, with every kind of loss."""
    points = points_of(lab, kind)
    cuts = [[Cut(at, loss)] for at in range(1, len(points) + 1)]
    say(summary(kind, f"cuts ({loss})", points, sweep(lab, kind, cuts)))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [GOOD, BAD])
def test_power_cut_during_recovery(lab: Lab, kind: str, say: Say) -> None:
    """A sample of first cuts, and for each a second one at a sample of the points of the boot that follows."""
    points = points_of(lab, kind)
    losses = list(Loss)
    cuts: list[list[Cut]] = []
    for number, first in enumerate(range(1, len(points) + 1, SAMPLE_STEP)):
        recovery = sweep(lab, kind, [[Cut(first, losses[number % len(losses)])]])[0][-1].passed
        seconds = range(1 + number % RECOVERY_STEP, len(recovery) + 1, RECOVERY_STEP)
        for turn, second in enumerate(seconds):
            cuts.append([Cut(first, losses[number % len(losses)]), Cut(second, losses[turn % len(losses)])])
    say(summary(kind, "double cuts", points, sweep(lab, kind, cuts)))

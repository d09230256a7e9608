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

from collections.abc import Callable, Sequence

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


def double_cuts(lab: Lab, kind: str, points: Sequence[str], first_step: int, second_step: int) -> list[list[Cut]]:
    """First cuts, and for each second ones at points of the boot that follows; the kinds of loss take turns."""
    losses = list(Loss)
    cuts: list[list[Cut]] = []
    for number, at in enumerate(range(1, len(points) + 1, first_step)):
        first = Cut(at, losses[number % len(losses)])
        recovery = sweep(lab, kind, [[first]])[0][-1].passed
        seconds = range(1 + number % second_step, len(recovery) + 1, second_step)
        cuts += [[first, Cut(second, losses[turn % len(losses)])] for turn, second in enumerate(seconds)]
    return cuts


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GOOD, BAD])
def test_power_cut_during_recovery_reduced(lab: Lab, kind: str, say: Say) -> None:
    points = points_of(lab, kind)
    cuts = double_cuts(lab, kind, points, 97, 71)
    say(summary(kind, "double cuts", points, sweep(lab, kind, cuts)))


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [GOOD, BAD])
def test_power_cut_during_recovery_full(lab: Lab, kind: str, say: Say) -> None:
    points = points_of(lab, kind)
    cuts = double_cuts(lab, kind, points, SAMPLE_STEP, RECOVERY_STEP)
    say(summary(kind, "double cuts", points, sweep(lab, kind, cuts)))

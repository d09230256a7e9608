"""When the waves of a simulated rollout open, if nothing stops it.

Nobody outside a wave has any influence on when it is over; so this is known beforehand.
"""

from collections.abc import Sequence

from bench.fleet_of_counts import OFF_DUTY_AFTER, Wave

QUORUM = 0.5
SOAK_STEPS = 1


def openings(waves: Sequence[Wave], moves_on: float | None) -> list[int]:
    """The step at which each wave opens.

    Args:
        waves: In their order.
        moves_on: The next one opens when this share of a wave has ended well; None for our waves, which also wait for
            everybody who is under way.
    """
    at, found = 0, []
    for wave in waves:
        found.append(at)
        at += lasts(wave) if moves_on is None else reaches(wave, moves_on)
    return found


def reaches(wave: Wave, share: float) -> int:
    """The step at which so many have ended well; the end of everything, where they never do."""
    good = 0
    for event in wave.events:
        good += event.good
        if good >= share * wave.size:
            return event.step
    return wave.events[-1].step


def lasts(wave: Wave) -> int:
    """The step at which nobody is under way, half have committed, and the soak is over.

    Devices that are off are under way until they are off duty, and again from when they are back. A wave that never has
    half of its devices committed is closed by a person when nothing more is to come.
    """
    changes: dict[int, list[int]] = {}
    for taken in wave.taken:
        if taken.was_off:
            changes.setdefault(taken.step, [0, 0, 0])[0] += taken.devices
    for event in wave.events:
        change = changes.setdefault(event.step, [0, 0, 0])
        change[0] -= event.good + event.failed + event.silent
        change[1] += event.good
        change[2] = 1
    off = changes.setdefault(OFF_DUTY_AFTER, [0, 0, 0])
    off[0] -= sum(wave.off)
    under_way, good, ended_at = wave.size, 0, 0
    for step in sorted(changes):
        if ended_at and not under_way and good >= QUORUM * wave.size and ended_at + SOAK_STEPS < step:
            return ended_at + SOAK_STEPS
        gone, well, ended = changes[step]
        under_way += gone
        good += well
        ended_at = step if ended else ended_at
    return ended_at + SOAK_STEPS

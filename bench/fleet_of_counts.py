"""A simulated fleet that is only counts: what a rollout of one release does to it, drawn beforehand.

Everything that is chance is drawn once for a run, so that every rule meets the same devices, failures and delays. A
step is an hour.

    takes it      six tenths of the devices that are on, after two hours in the mean; the others when they are free: at
                  any time of two days (late)
    is off        one device in ten. Most of these were known to be off, and come last; one in fifty is off
                  unexpectedly. They are off duty after two hours, and back after two to three days.
    ends well     two hours after taking it
    fails         says so an hour after taking it, which is sooner than a success; one failure in five says nothing and
                  goes silent, which is noticed two hours later
    goes silent   by itself: three in a thousand of those that are well, for a day

How many fail, by kind of device (`Release`): a good release fails at 2 % in the mean, and on some kinds (hardware
batches) at up to 3 %, on others at as little as 1 %. A bad one fails at 15 % in the mean: in one half of the runs
everywhere alike, in the other one four fifths of all failures are on one kind. `clustered` is a release that is good in
the mean, but not everywhere: rates by kind follow a beta distribution with mean 2 % and an intra-class correlation of
0.05, so that one kind in twenty fails at more than 8 %.

Counts above a few are drawn by the normal approximation of the binomial distribution, others one by one.
"""

from collections.abc import Sequence
from math import ceil, log, sqrt
from random import Random
from typing import Literal

from msgspec import Struct

Release = Literal["good", "clustered", "bad"]

STEP_HOURS = 1
GOOD_RATE, BAD_RATE = 0.02, 0.15
SILENT_SHARE, SILENT_ANYWAY = 0.2, 0.003
FAILS_AFTER, ENDS_AFTER, MISSED_AFTER, SILENT_FOR = 1, 2, 3, 24
PROMPT_SHARE, PROMPT_STEPS, LATE_STEPS = 0.6, 2.0, 48
OFF_SHARE, OFF_UNEXPECTEDLY = 0.1, 0.02
BACK_FROM, BACK_UNTIL = 48, 72
OFF_DUTY_AFTER = 2
_ONE_BY_ONE = 30
_BACK_AT = range(BACK_FROM, BACK_UNTIL, 6)


class Event(Struct, frozen=True, order=True):
    """Devices of one kind of which something becomes known; `silent` is negative where they are heard again."""

    step: int
    kind: int
    good: int = 0
    failed: int = 0
    silent: int = 0


class Taken(Struct, frozen=True, order=True):
    """Devices of one kind that install the release.

    Attributes:
        hurt: So many of them will fail.
        was_off: They were off duty until then.
    """

    step: int
    kind: int
    devices: int
    hurt: int
    was_off: bool = False


class Wave(Struct, frozen=True):
    """What happens after a wave is opened; steps count from there.

    Attributes:
        members: By kind; `off` of them are off.
        on_until: The last event of devices that are on.
    """

    members: tuple[int, ...]
    off: tuple[int, ...]
    taken: tuple[Taken, ...]
    events: tuple[Event, ...]
    on_until: int

    @property
    def size(self) -> int:
        return sum(self.members)


def kinds_of(devices: int) -> int:
    """How many kinds of devices a fleet of this size has."""
    return 2 if devices < 50 else 3 if devices < 200 else 5


def wave_sizes(devices: int, shares: Sequence[float] = (0.0, 0.1, 0.5, 1.0)) -> list[int]:
    """Sizes of waves that reach these shares of the fleet in total, each at least one device."""
    sizes: list[int] = []
    for share in shares:
        left = devices - sum(sizes)
        sizes.append(min(left, max(1, ceil(share * devices - 1e-9) - sum(sizes))))
    return [size for size in sizes if size]


def doubling(devices: int) -> list[int]:
    """1, 1, 2, 4, ... devices: each wave is as large as all before it."""
    sizes = [1]
    while sum(sizes) < devices:
        sizes.append(min(sum(sizes), devices - sum(sizes)))
    return sizes


def rates(release: Release, kinds: int, chance: Random) -> list[float]:
    """The failure rate of each kind."""
    if release == "good":
        return [GOOD_RATE * chance.uniform(0.5, 1.5) for _ in range(kinds)]
    if release == "clustered":
        strength = 1 / 0.05 - 1
        return [chance.betavariate(GOOD_RATE * strength, (1 - GOOD_RATE) * strength) for _ in range(kinds)]
    if chance.random() < 0.5:
        return [BAD_RATE] * kinds
    worst = chance.randrange(kinds)
    whole = BAD_RATE * kinds
    return [0.8 * whole if kind == worst else 0.2 * whole / (kinds - 1) for kind in range(kinds)]


def draw(sizes: Sequence[int], release: Release, chance: Random) -> list[Wave]:
    """Draw all waves of a run."""
    kinds = kinds_of(sum(sizes))
    found = rates(release, kinds, chance)
    first = chance.randrange(kinds)
    known_off = round(sum(sizes) * (OFF_SHARE - OFF_UNEXPECTEDLY))
    waves, before = [], 0
    for number, size in enumerate(sizes):
        # Waves are balanced: kinds take turns.
        members = _spread(size, kinds, first + before)
        last = number == len(sizes) - 1
        off = [_binomial(count, OFF_UNEXPECTEDLY, chance) for count in members]
        if last:
            extra = _spread(min(known_off, size), kinds, first)
            off = [min(count, some + more) for count, some, more in zip(members, off, extra, strict=True)]
        waves.append(_wave(members, off, found, chance))
        before += size
    return waves


def _spread(size: int, kinds: int, first: int) -> list[int]:
    counts = [size // kinds] * kinds
    for turn in range(size % kinds):
        counts[(first + turn) % kinds] += 1
    return counts


def _wave(members: Sequence[int], off: Sequence[int], found: Sequence[float], chance: Random) -> Wave:
    taken: list[Taken] = []
    events: list[Event] = []
    on_until = 0
    for kind, (count, away) in enumerate(zip(members, off, strict=True)):
        for step, devices, was_off in [*_takes(count - away, chance), *_returns(away, chance)]:
            hurt = _binomial(devices, found[kind], chance)
            taken.append(Taken(step, kind, devices, hurt, was_off))
            lost = _binomial(hurt, SILENT_SHARE, chance)
            hidden = _binomial(devices - hurt, SILENT_ANYWAY, chance)
            well = devices - hurt - hidden
            if hurt - lost:
                events.append(Event(step + FAILS_AFTER, kind, failed=hurt - lost))
            if well:
                events.append(Event(step + ENDS_AFTER, kind, good=well))
            if lost + hidden:
                events.append(Event(step + MISSED_AFTER, kind, silent=lost + hidden))
            if hidden:
                events.append(Event(step + SILENT_FOR, kind, good=hidden, silent=-hidden))
            if not was_off:
                on_until = max(on_until, step + (MISSED_AFTER if lost + hidden else ENDS_AFTER))
    return Wave(tuple(members), tuple(off), tuple(sorted(taken)), tuple(sorted(events)), on_until)


def _takes(devices: int, chance: Random) -> list[tuple[int, int, bool]]:
    """When devices that are on install it: counts by step."""
    prompt = _binomial(devices, PROMPT_SHARE, chance)
    counts: dict[int, int] = {}
    if devices <= _ONE_BY_ONE:
        for number in range(devices):
            step = (
                1 + int(-PROMPT_STEPS * log(1.0 - chance.random()))
                if number < prompt
                else chance.randint(1, LATE_STEPS)
            )
            counts[step] = counts.get(step, 0) + 1
    else:
        left, share = prompt, 1 - 2.718281828459045 ** (-1 / PROMPT_STEPS)
        for step in range(1, 13):
            some = left if step == 12 else _binomial(left, share, chance)
            counts[step] = some
            left -= some
        left = devices - prompt
        for step in range(1, LATE_STEPS + 1):
            some = _binomial(left, 1 / (LATE_STEPS + 1 - step), chance)
            counts[step] = counts.get(step, 0) + some
            left -= some
    return [(step, count, False) for step, count in sorted(counts.items()) if count]


def _returns(devices: int, chance: Random) -> list[tuple[int, int, bool]]:
    """When devices that were off come back and install it."""
    left, found = devices, []
    for turn, step in enumerate(_BACK_AT):
        some = _binomial(left, 1 / (len(_BACK_AT) - turn), chance)
        if some:
            found.append((step, some, True))
        left -= some
    return found


def _binomial(n: int, p: float, chance: Random) -> int:
    """How many of `n` it happens to."""
    if n <= 0 or p <= 0:
        return 0
    if p >= 1:
        return n
    if n <= 8:
        return sum(chance.random() < p for _ in range(n))
    mean = n * min(p, 1 - p)
    if mean > _ONE_BY_ONE:
        drawn = round(chance.gauss(n * p, sqrt(n * p * (1 - p))))
        return min(n, max(0, drawn))
    if p > 0.5:
        return n - _binomial(n, 1 - p, chance)
    # From one success to the next, as many trials as a geometric distribution says.
    count, at, scale = 0, 0, log(1 - p)
    while True:
        at += 1 + int(log(1.0 - chance.random()) / scale)
        if at > n:
            return count
        count += 1

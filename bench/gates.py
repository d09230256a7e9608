"""What the gate is worth: simulated rollouts of good and bad releases, beside three published rules.

For fleets of 20, 60, 500 and 50,000 devices, so many runs each of releases that are good, good in the mean but
clustered, and bad (`bench.fleet_of_counts` says what that means, and how late, silent and correlated devices are), with
waves of 1, 10 %, 50 % and 100 %. Every rule (`bench.gate_rules`) meets the same runs.

    false       of good releases: paused and no more, and halted (hawkBit only pauses; AWS and LVFS only halt)
    clustered   of releases that are good in the mean, but not on every kind of device: stopped in one way or the other
    caught      of bad releases: stopped in one way or the other before the end
    hurt        devices on which a bad release failed: mean, and 95th percentile. Nobody comes to look after a pause:
                what is under way goes on, and may yet lead to a halt. A halt takes back what no device has taken yet.
    hours       until a good release that was not stopped is on all devices that were on: mean

And one rollout to a million devices is driven through `decide` itself, step by step.
"""

import argparse
import json
import os
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from operator import itemgetter
from random import Random

from msgspec import Struct, structs

from bench.decided_fleet import drive
from bench.fleet_of_counts import STEP_HOURS, Event, Release, Taken, Wave, doubling, draw, wave_sizes
from bench.gate_rules import DEFAULT, OURS, PUBLISHED, STEPS_A_DAY, Counts, Rule
from bench.wave_times import openings
from sdx_hub.domain.rollout.evidence import Outcomes, of_kinds

FLEETS = (20, 60, 500, 50_000)
RELEASES: tuple[Release, ...] = ("good", "clustered", "bad")
RUNS = 3_000
MILLION = 1_000_000
RULES = (*PUBLISHED, *OURS)
CHUNK = 100


class Outcome(Struct, frozen=True):
    """A run under a rule.

    Attributes:
        stopped: `pause`, `halt`, or nothing.
        hurt: Devices on which the release failed.
        hours: Until it was on all devices that were on; None where it was stopped.
    """

    stopped: str
    hurt: int
    hours: float | None


class Row(Struct, frozen=True):
    """A rule over all runs with a fleet; shares of runs, devices, hours."""

    paused: float
    halted: float
    clustered: float
    caught: float
    hurt: float
    hurt_p95: int
    hours: float

    @property
    def false(self) -> float:
        """Good releases that were stopped in one way or the other."""
        return self.paused + self.halted


class Run:
    """What chance has in store for a rollout, and what is known of it when, as long as nothing stops it.

    Args:
        waves: As drawn.
    """

    def __init__(self, waves: Sequence[Wave]) -> None:
        self._waves = waves
        self._known: dict[tuple[float | None, int], list[Counts]] = {}
        self._openings: dict[float | None, list[int]] = {}

    def under(self, rule: Rule) -> Outcome:
        """Follow it until the rule stops it, or to its end."""
        if rule.moves_on not in self._openings:
            self._openings[rule.moves_on] = openings(self._waves, rule.moves_on)
        opened = self._openings[rule.moves_on]
        for counts in self._history(opened, rule, len(self._waves)):
            verdict = rule.judge(counts)
            if verdict:
                return self._stopped(opened, rule, counts, verdict)
        last = max(at + wave.on_until for at, wave in zip(opened, self._waves, strict=True))
        return Outcome("", hurt(self._waves, opened, None), last * STEP_HOURS)

    def _stopped(self, opened: Sequence[int], rule: Rule, counts: Counts, verdict: str) -> Outcome:
        """No further wave opens; after a pause, what is known of the open ones may yet halt it."""
        upto = len(counts.sizes)
        waves = self._waves[:upto]
        if verdict == "halt":
            return Outcome("halt", hurt(waves, opened, counts.step), None)
        for later in self._history(opened, rule, upto):
            if later.step > counts.step and rule.judge(later) == "halt":
                return Outcome("halt", hurt(waves, opened, later.step), None)
        return Outcome("pause", hurt(waves, opened, None), None)

    def _history(self, opened: Sequence[int], rule: Rule, upto: int) -> list[Counts]:
        key = rule.moves_on, upto
        if key not in self._known:
            self._known[key] = list(history(self._waves[:upto], opened[:upto]))
        return self._known[key]


def hurt(waves: Sequence[Wave], opened: Sequence[int], halted: int | None) -> int:
    """Devices on which it failed; after a halt nobody takes it any more."""
    return sum(
        taken.hurt
        for at, wave in zip(opened, waves, strict=False)
        for taken in wave.taken
        if halted is None or at + taken.step <= halted
    )


def history(waves: Sequence[Wave], opened: Sequence[int]) -> Iterator[Counts]:
    """What is known at each step at which a failure or a silence becomes known, and at the end of each day."""
    kinds = range(len(waves[0].members))
    good, failed, silent, switched = ([0] * len(kinds) for _ in range(4))
    errors = [0] * len(waves)
    coming: list[tuple[int, int, Event | Taken]] = [
        (at + each.step, number, each)
        for number, (at, wave) in enumerate(zip(opened, waves, strict=True))
        for each in (*wave.events, *wave.taken)
    ]
    coming.sort(key=itemgetter(0))
    sizes = tuple(wave.size for wave in waves)

    def known(step: int) -> Counts:
        count = bisect_left(opened, step)
        begun = [sum(wave.members[kind] - wave.off[kind] for wave in waves[:count]) for kind in kinds]
        found = tuple(
            Outcomes(
                good[kind],
                switched[kind] - good[kind] - failed[kind] - silent[kind],
                max(0, begun[kind] - switched[kind]),
                failed[kind] + silent[kind],
            )
            for kind in kinds
        )
        return Counts(step, found, of_kinds(found), sum(silent), tuple(errors[:count]), sizes[:count])

    at, end, before = 0, len(coming), 0
    while at < end:
        step = coming[at][0]
        day = (before // STEPS_A_DAY + 1) * STEPS_A_DAY
        if day < step:
            yield known(day)
        worse = step % STEPS_A_DAY == 0
        while at < end and coming[at][0] == step:
            _, number, each = coming[at]
            at += 1
            if isinstance(each, Taken):
                switched[each.kind] += each.devices
                continue
            good[each.kind] += each.good
            failed[each.kind] += each.failed
            silent[each.kind] += each.silent
            errors[number] += each.failed
            worse = worse or each.failed > 0 or each.silent > 0
        if worse:
            yield known(step)
        before = step


def chunk(devices: int, release: Release, first: int, runs: int, in_doubles: bool) -> dict[str, list[Outcome]]:
    """Some runs, under every rule."""
    sizes = doubling(devices) if in_doubles else wave_sizes(devices)
    rules = {f"{DEFAULT.name}, waves 1, 1, 2, 4, ...": DEFAULT} if in_doubles else {rule.name: rule for rule in RULES}
    found: dict[str, list[Outcome]] = {name: [] for name in rules}
    for number in range(first, first + runs):
        chosen = Run(draw(sizes, release, Random(f"{devices} {release} {number}")))  # noqa: S311 - a simulation
        for name, rule in rules.items():
            found[name].append(chosen.under(rule))
    return found


def jobs(runs: int, fleets: Sequence[int]) -> list[tuple[int, Release, int, int, bool]]:
    """The largest first; a third as many of clustered releases, a tenth as many with waves that double."""
    return [
        (devices, release, first, min(CHUNK, count - first), in_doubles)
        for devices in sorted(fleets, reverse=True)
        for in_doubles in (True, False)
        for release in RELEASES
        for count in [max(1, runs // (10 if in_doubles else 3 if release == "clustered" else 1))]
        for first in range(0, count, CHUNK)
    ]


def compare(runs: int, fleets: Sequence[int], processes: int) -> dict[int, dict[str, Row]]:
    todo = jobs(runs, fleets)
    made: dict[int, dict[str, dict[str, list[Outcome]]]] = {
        devices: {rule.name: {} for rule in RULES} for devices in fleets
    }
    with ProcessPoolExecutor(processes) as pool:
        for (devices, release, *_), found in zip(todo, pool.map(chunk, *zip(*todo, strict=True)), strict=True):
            for name, outcomes in found.items():
                made[devices].setdefault(name, {}).setdefault(release, []).extend(outcomes)
    return {devices: {name: summary(**by) for name, by in found.items()} for devices, found in made.items()}


def summary(good: Sequence[Outcome], clustered: Sequence[Outcome], bad: Sequence[Outcome]) -> Row:
    harmed = sorted(outcome.hurt for outcome in bad)
    hours = [outcome.hours for outcome in good if outcome.hours is not None]
    return Row(
        paused=_share(good, "pause"),
        halted=_share(good, "halt"),
        clustered=_share(clustered, "pause") + _share(clustered, "halt"),
        caught=_share(bad, "pause") + _share(bad, "halt"),
        hurt=sum(harmed) / len(harmed),
        hurt_p95=harmed[int(0.95 * (len(harmed) - 1))],
        hours=sum(hours) / len(hours) if hours else 0.0,
    )


def _share(outcomes: Sequence[Outcome], stopped: str) -> float:
    return sum(outcome.stopped == stopped for outcome in outcomes) / len(outcomes)


def table(devices: int, rows: dict[str, Row]) -> str:
    lines = [
        f"| {devices:,} devices | false pauses | false halts | clustered | caught | hurt, mean | hurt, p95 | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row.paused:.1%} | {row.halted:.1%} | {row.clustered:.1%} | {row.caught:.1%} "
        f"| {row.hurt:,.1f} | {row.hurt_p95:,} | {row.hours:.0f} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def verdict(rows: dict[str, Row]) -> tuple[bool, str]:
    """Whether ours hurts fewer devices than the best published rule at no more false stops; and in words.

    The best one is that which hurts the fewest. Where ours is not better in both, the text says which of our settings
    are, and how ours stands against those that stop no more good releases than it does.
    """
    mine = rows[DEFAULT.name]
    best = min((rule.name for rule in PUBLISHED), key=lambda name: (rows[name].hurt, rows[name].false))
    theirs = rows[best]
    said = (
        f"ours hurts {mine.hurt:,.1f} and stops {mine.false:.1%} of good releases ({mine.halted:.1%} halted); of the "
        f"published rules {best} hurts fewest, {theirs.hurt:,.1f}, and stops {theirs.false:.1%}."
    )
    if mine.hurt < theirs.hurt and mine.false <= theirs.false:
        return True, f"{said} Fewer hurt, at no more false stops."
    if mine.hurt < theirs.hurt:
        said += " Fewer hurt, but more false stops."
    elif mine.false < theirs.false:
        said += " Fewer false stops, but not fewer hurt."
    else:
        said += " Neither fewer hurt nor fewer false stops."
    better = [
        rule.name for rule in OURS if rows[rule.name].hurt < theirs.hurt and rows[rule.name].false <= theirs.false
    ]
    said += f" Better in both: {'; '.join(better) or 'none of our settings'}."
    quiet = [rule.name for rule in PUBLISHED if rows[rule.name].false <= mine.false]
    least = min((rows[name].hurt for name in quiet), default=None)
    if least is not None:
        said += f" Published rules that stop no more good releases than ours hurt {least:,.1f} at least."
    return False, said


def million() -> dict[str, float]:
    """One good and one bad rollout to a million devices, through `decide` itself."""
    found: dict[str, float] = {}
    for release in ("good", "bad"):
        began = time.perf_counter()
        waves = draw(wave_sizes(MILLION), release, Random(f"million {release}"))  # noqa: S311 - a simulation
        ended = drive(waves)
        took = time.perf_counter() - began
        found[f"{release}_s"] = round(took, 2)
        print(
            f"A {release} release to {MILLION:,} devices, driven through decide(): {ended.state} after "
            f"{ended.step * STEP_HOURS:.0f} h, {ended.decisions:,} decisions, simulated in {took:.2f} s"
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each kind of release, for each fleet")
    parser.add_argument("--fleets", type=int, nargs="+", default=FLEETS)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    began = time.perf_counter()
    found = compare(chosen.runs, chosen.fleets, chosen.processes)
    print(f"{chosen.runs:,} runs of each kind of release and fleet; {time.perf_counter() - began:.0f} s")
    holds = {}
    for devices, rows in found.items():
        print(f"\n{table(devices, rows)}")
    print()
    for devices, rows in found.items():
        holds[devices], said = verdict(rows)
        print(f"{devices:,} devices: {said}")
    seconds = million()
    figures = {devices: {name: structs.asdict(row) for name, row in rows.items()} for devices, rows in found.items()}
    print(
        json.dumps(
            {"runs": chosen.runs, "fleets": figures, "default": DEFAULT.name, "holds": holds, "million": seconds}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Rules that stop a rollout: three published ones, with settings from their own documentation, and this project's.

hawkBit
    A group is in error when the actions in state ERROR are *more than* so many percent of *all* actions of the group
    (`ThresholdRolloutGroupErrorCondition`); then the rollout is paused, and what was assigned goes on. The next group
    starts when so many percent of a group are finished, without waiting for the others
    (`ThresholdRolloutGroupSuccessCondition`). `RolloutGroupConditionBuilder.withDefaults()` says 50 % for both; 20 % is
    a stricter setting. A device that is never heard of again stays RUNNING: it is no error.
    https://eclipse.dev/hawkbit/concepts/rollout-management

AWS IoT Jobs
    A job is cancelled when at least `thresholdPercentage` of the executions that completed ended in `failureType`, once
    `minNumberOfExecutedThings` of them have completed. The developer guide's example is 100 and 20 % of FAILED, 200 and
    50 % of TIMED_OUT; that of Greengrass is 100 and 5 % of ALL. 10 and 10 % of ALL is what somebody with a small fleet
    might set. Cancelling takes back what is queued; what is in progress goes on.
    https://docs.aws.amazon.com/iot/latest/developerguide/job-rollout-abort.html

LVFS
    Firmware goes back from `stable` to `testing` when at least `failure_minimum` failures were reported and less than
    `failure_percentage` of all reports are successes: 5 and 70 % (`Firmware.is_failure` and `_demote_back_to_testing`
    in lvfs-website). It counts reports now and then, here once a day, and learns of nothing else; here every device
    that is not silent sends one.
    https://gitlab.com/fwupd/lvfs-website

AWS and LVFS have no waves of their own; they get ours, each of which opens when the one before has no device under way
and half of it committed.
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from bench.fleet_of_counts import STEP_HOURS
from sdx_hub.domain.rollout.evidence import Outcomes, combined, evidence
from sdx_hub.domain.rollout.policy import Gate

STEPS_A_DAY = int(24 / STEP_HOURS)
Verdict = Literal["", "pause", "halt"]


class Counts(Struct, frozen=True):
    """What is known at a step.

    Attributes:
        kinds, everything: Devices of each kind, and of all together; those that went silent are among the broken.
        silent: So many of these.
        errors, sizes: Failures that were reported, and members, of each wave that is open.
    """

    step: int
    kinds: tuple[Outcomes, ...]
    everything: Outcomes
    silent: int
    errors: tuple[int, ...]
    sizes: tuple[int, ...]


class Rule(Struct, frozen=True):
    """A rule and how its waves follow one another.

    Attributes:
        moves_on: The share of a wave that has to be finished; None for our waves.
    """

    name: str
    judge: Callable[[Counts], Verdict]
    moves_on: float | None = None


def hawkbit(error: float, success: float) -> Rule:
    def judge(counts: Counts) -> Verdict:
        over = any(errors / size > error for errors, size in zip(counts.errors, counts.sizes, strict=True))
        return "pause" if over else ""

    return Rule(f"hawkBit, {error:.0%}", judge, success)


def aws(name: str, *criteria: tuple[str, int, float]) -> Rule:
    """Criteria are (failure type, minimum number of executed things, threshold)."""

    def judge(counts: Counts) -> Verdict:
        failed, timed_out = counts.everything.broken - counts.silent, counts.silent
        of_type = {"FAILED": failed, "TIMED_OUT": timed_out, "ALL": failed + timed_out}
        executed = counts.everything.committed + failed + timed_out
        met = any(executed >= least and of_type[kind] >= share * executed for kind, least, share in criteria)
        return "halt" if met else ""

    return Rule(name, judge)


def lvfs(minimum: int, percentage: float) -> Rule:
    def judge(counts: Counts) -> Verdict:
        if counts.step % STEPS_A_DAY:
            return ""
        failed, good = counts.everything.broken - counts.silent, counts.everything.committed
        return "halt" if failed >= minimum and good < percentage * (good + failed) else ""

    return Rule(f"LVFS, {minimum} and {percentage:.0%}", judge)


def ours(base: float, pause_at: float, halt_at: float) -> Rule:
    def judge(counts: Counts) -> Verdict:
        value = e_value(counts, base)
        return "halt" if value >= halt_at else "pause" if value >= pause_at else ""

    return Rule(f"ours, {base:.0%}, {pause_at:g} and {halt_at:g}", judge)


def e_value(counts: Counts, base: float) -> float:
    """The gate's e-value, without a control: a little eager about devices that go silent by themselves."""
    if not any(
        each.broken > base * (each.committed + each.on_trial + each.broken)
        for each in (counts.everything, *counts.kinds)
    ):
        return 1.0  # At most: no stake has grown, and there is no need to say how much is left of it.
    by_kind = {kind: evidence(each, base, base) for kind, each in enumerate(counts.kinds)}
    return combined(evidence(counts.everything, base, base), by_kind)


PUBLISHED = (
    hawkbit(0.5, 0.5),
    hawkbit(0.2, 0.5),
    aws("AWS, FAILED 100 and 20%", ("FAILED", 100, 0.2), ("TIMED_OUT", 200, 0.5)),
    aws("AWS, ALL 100 and 5%", ("ALL", 100, 0.05)),
    aws("AWS, ALL 10 and 10%", ("ALL", 10, 0.1)),
    lvfs(5, 0.7),
)
DEFAULT = ours(Gate().base_rate, Gate().pause_at, Gate().halt_at)
OURS = (DEFAULT, ours(0.02, 5, 5), ours(0.02, 20, 100), ours(0.03, 5, 20), ours(0.05, 5, 5))

"""The evidence that a person accepts when resuming, and what is left of it later."""

from sdx_hub.domain.rollout import counting
from sdx_hub.domain.rollout.facts import Accepted, Facts


def accept(facts: Facts) -> Accepted:
    """All evidence so far: what comes later is judged by itself."""
    return Accepted(counting.good(facts), counting.bad(facts), facts.critical.count)


def remaining(facts: Facts) -> Accepted:
    """What was accepted, without members that have left those states.

    A member that failed, was accepted and is tried again is no failure any more. If it, or another one, fails then,
    that is new, and has to count: so this is stored before anything is decided. A silent device that came back counts
    no more either.
    """
    good, bad = counting.good(facts), counting.bad(facts)
    return Accepted(
        {stratum: min(devices, good[stratum]) for stratum, devices in facts.accepted.good.items() if stratum in good},
        {stratum: min(devices, bad[stratum]) for stratum, devices in facts.accepted.bad.items() if stratum in bad},
        min(facts.accepted.critical, facts.critical.count),
    )

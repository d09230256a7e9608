"""The evidence that devices fail more often than is allowed: an e-value, which may be looked at after every outcome.

The null hypothesis is that devices fail at a rate of at most `allowed`. The e-value is a bet against it: a stake of 1,
spread over failure rates, of which each outcome multiplies a part by (r / allowed) where a device failed, and by
((1 - r) / (1 - allowed)) where it did not. While the null hypothesis holds, no such bet grows in the mean, whatever the
order of outcomes and whenever one stops looking (it is a nonnegative supermartingale: the larger the true rate, the
larger the expected factor, and it is 1 at `allowed`). By Ville's inequality the probability that it *ever* reaches x is
at most 1/x: of good releases at most one in five is ever paused at 5, and at most one in twenty halted at 20. A test
with a fixed number of devices has no such promise when it is looked at after each of them.

- J. Ville, "Étude critique de la notion de collectif" (1939).
- A. Ramdas, P. Grünwald, V. Vovk, G. Shafer, "Game-theoretic statistics and safe anytime-valid inference",
  Statistical Science 38 (2023), https://arxiv.org/abs/2210.01948.
- The stake spread over rates is the method of mixtures: H. Robbins, "Statistical methods related to the law of the
  iterated logarithm", Annals of Mathematical Statistics 41 (1970).

A stake on a rate that is not above the allowed one is not bet: it stays as it is. So a larger `allowed` never makes a
stop out of what was none (tested), and the promise for the base rate holds whatever the control group does.

Failures are known sooner than successes: a trial has to last before it succeeds, and fails at any moment. Who counts
only what has ended sees nothing but failures at first, where thousands of devices begin at once, and stops good
releases. So a device counts as well from when it begins until it fails. That is the same bet, taken in the order in
which devices begin, on no more failures than there will be; it is never larger, and the promise holds for any delays.
There are two beginnings. Two thirds of the stake count from the switch to the new version on, and those that failed
after it; one third from the offer on, and all that failed. The first is quick while many offers still wait.

One kind of device may fail while all others are well. So half of the stake is on all devices, and the other half in
equal parts on each kind alone. A mean of such bets is such a bet again.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from math import exp, fsum, log, log1p

from msgspec import Struct

RATES = 40
"""Over so many failure rates the stake is spread."""
LEAST_ODDS = 3.0
"""The smallest of them has so many times the odds of the base rate: what is only a little worse than allowed is nothing
to stop for, and a large fleet would show any such difference. At 2 % allowed, rates above 3.7 % are noticed."""
FROM_SWITCH = 2 / 3
"""This part of the stake counts devices from the switch on, the other from the offer on."""
MOST = 1e300
"""An e-value is cut off here; JSON has no infinity."""


class Outcomes(Struct, frozen=True):
    """Members of one kind that were offered the release.

    Attributes:
        committed: Ended well.
        on_trial: Have begun to switch, or run the new version on trial.
        under_way: Were offered it, and have not begun to switch.
        broken: Failed after the switch.
        stopped: Failed before it.
    """

    committed: int = 0
    on_trial: int = 0
    under_way: int = 0
    broken: int = 0
    stopped: int = 0

    @property
    def bad(self) -> int:
        return self.broken + self.stopped


def of_kinds(outcomes: Collection[Outcomes]) -> Outcomes:
    """All of them together."""
    return Outcomes(
        *(sum(getattr(each, name) for each in outcomes) for name in Outcomes.__struct_fields__)  # In their order.
    )


def evidence(outcomes: Outcomes, allowed: float, base_rate: float) -> float:
    """The e-value of these outcomes, one part of it from the switch on, the other from the offer on."""
    switched = outcomes.committed + outcomes.on_trial
    from_switch = e_value(switched, outcomes.broken, allowed, base_rate)
    from_offer = e_value(switched + outcomes.under_way, outcomes.bad, allowed, base_rate)
    return FROM_SWITCH * from_switch + (1 - FROM_SWITCH) * from_offer


def combined(overall: float, by_kind: Mapping[int, float]) -> float:
    """One e-value of that of all devices and those of their kinds."""
    if len(by_kind) < 2:
        return overall
    return 0.5 * overall + 0.5 * fsum(each / len(by_kind) for each in by_kind.values())


@lru_cache(maxsize=65_536)
def e_value(good: int, bad: int, allowed: float, base_rate: float) -> float:
    """The evidence that the failure rate is above the allowed one; 1 while there is none.

    Args:
        good: Devices that are well.
        bad: Devices that failed. The order of outcomes does not matter.
        allowed: The largest rate of the null hypothesis.
        base_rate: The stake is spread over rates above this one, before any outcome is known.
    """
    log_allowed, log_others = log(allowed), log1p(-allowed)
    terms = [
        log_weight + (bad * (log_rate - log_allowed) + good * (log_rest - log_others) if rate > allowed else 0.0)
        for rate, log_weight, log_rate, log_rest in _stake(base_rate)
    ]
    most = max(terms)
    logarithm = most + log(fsum(exp(term - most) for term in terms))
    return exp(logarithm) if logarithm < log(MOST) else MOST


@lru_cache(maxsize=64)
def _stake(base_rate: float) -> tuple[tuple[float, float, float, float], ...]:
    """Rates, equally spaced by their logarithms, each with its part of the stake; and logarithms of all three.

    Parts are as the fourth roots of the rates, a density of `r ** -0.75`: much is on the smaller ones, where most bad
    releases are, and enough on those near 1 that the first device, if it fails, pauses. Chosen by exact distributions
    of the stopping time and by simulation: docs/adr/0021-the-gate.md.
    """
    least = LEAST_ODDS * base_rate / (1 - base_rate + LEAST_ODDS * base_rate)
    step = -log(least) / RATES
    rates = [exp(log(least) + step * (place + 0.5)) for place in range(RATES)]
    whole = fsum(rate**0.25 for rate in rates)
    return tuple((rate, log(rate**0.25 / whole), log(rate), log1p(-rate)) for rate in rates)

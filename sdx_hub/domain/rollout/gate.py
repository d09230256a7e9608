"""Whether failures are more than what is allowed: an e-value that may be looked at after every single outcome.

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

One kind of device may fail while all others are well. So half of the stake is on all devices, and the other half in
equal parts on each kind alone: a mean of such bets is one again.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from math import exp, fsum, log, log1p, sqrt

from msgspec import structs

from sdx_hub.domain.rollout import bounds
from sdx_hub.domain.rollout.facts import Accepted, Control, Reading
from sdx_hub.domain.rollout.policy import Gate
from sdx_hub.domain.rollout.words import number, percent, several

RATES = 40
"""Over so many failure rates the stake is spread."""
MOST = 1e300
"""An e-value is cut off here; JSON has no infinity."""
_MOST_ALLOWED = 0.99


def read(
    good: Mapping[int, int],
    bad: Mapping[int, int],
    strata: Mapping[int, str],
    gate: Gate,
    control: Control,
    *,
    accepted: Accepted = Accepted(),  # noqa: B008 - frozen
) -> Reading:
    """Say what the outcomes show.

    Args:
        good: Members that ended well, by stratum.
        bad: Members that ended badly, by stratum.
        strata: Names of the strata that have members, whether or not any of them ended.
        gate: The policy.
        control: Members that were not offered anything.
        accepted: Evidence that is left out.
    """
    goods = {stratum: max(0, good.get(stratum, 0) - accepted.good.get(stratum, 0)) for stratum in strata}
    bads = {stratum: max(0, bad.get(stratum, 0) - accepted.bad.get(stratum, 0)) for stratum in strata}
    allowed = allowed_rate(gate, control)
    passed, failed = sum(goods.values()), sum(bads.values())
    overall = e_value(passed, failed, allowed, gate.base_rate)
    by_stratum = {stratum: e_value(goods[stratum], bads[stratum], allowed, gate.base_rate) for stratum in strata}
    since = " since it was resumed" if accepted.good or accepted.bad else ""
    reading = Reading(
        good=passed,
        bad=failed,
        allowed_rate=_kept(allowed),
        e_value=_kept(combined(overall, by_stratum.values())),
        by_stratum={stratum: _kept(each) for stratum, each in by_stratum.items()},
        bound=_kept(bounds.upper(failed, passed + failed)),
        sentence="",
    )
    said = _overall(reading, gate, since) + _worst(goods, bads, by_stratum, overall, strata)
    return structs.replace(reading, sentence=said)


def allowed_rate(gate: Gate, control: Control) -> float:
    """The base rate, and what devices that were offered nothing prove to go silent by themselves."""
    proven = bounds.lower(control.silent, control.devices) if gate.control else 0.0
    return min(gate.base_rate + proven, _MOST_ALLOWED)


def combined(overall: float, by_stratum: Collection[float]) -> float:
    """One e-value of that of all devices and those of their kinds."""
    if len(by_stratum) < 2:
        return overall
    return 0.5 * overall + 0.5 * fsum(each / len(by_stratum) for each in by_stratum)


@lru_cache(maxsize=65_536)
def e_value(good: int, bad: int, allowed: float, base_rate: float) -> float:
    """The evidence that the failure rate is above the allowed one; 1 while there is none.

    Args:
        good: Devices that committed.
        bad: Devices that failed. The order of outcomes does not matter.
        allowed: The largest rate of the null hypothesis.
        base_rate: The stake is spread over rates above this one, before any outcome is known.
    """
    terms = [
        log_weight + (bad * (log_rate - log(allowed)) + good * (log_rest - log1p(-allowed)) if rate > allowed else 0.0)
        for rate, log_weight, log_rate, log_rest in _stake(base_rate)
    ]
    most = max(terms)
    logarithm = most + log(fsum(exp(term - most) for term in terms))
    return exp(logarithm) if logarithm < log(MOST) else MOST


@lru_cache(maxsize=64)
def _stake(base_rate: float) -> tuple[tuple[float, float, float, float], ...]:
    """Rates, equally spaced by their logarithms, each with its part of the stake; and logarithms of all three.

    Parts are as the roots of the rates, which is a density of `r ** -0.5`: much is on rates of a few times the base
    rate, where most bad releases are, and enough on those near 1 that the first device, if it fails, pauses. Chosen
    by the exact distribution of the stopping time, among powers from 0 to -2: see docs/adr/0020-the-gate.md.
    """
    step = -log(base_rate) / RATES
    rates = [exp(log(base_rate) + step * (step_number + 0.5)) for step_number in range(RATES)]
    whole = fsum(sqrt(rate) for rate in rates)
    return tuple((rate, log(sqrt(rate) / whole), log(rate), log1p(-rate)) for rate in rates)


def _overall(reading: Reading, gate: Gate, since: str) -> str:
    good, bad = reading.good, reading.bad
    bound, allowed = percent(reading.bound), percent(reading.allowed_rate)
    if not good + bad:
        return f"Nothing has ended yet{since}."
    if not bad:
        verb = "allows" if good == 1 else "allow"
        return f"{several(good, 'clean install')}{since} still {verb} a failure rate of {bound}."
    return (
        f"{bad:,} of {good + bad:,} failed{since}: the true rate is at most {bound}, and {allowed} is "
        f"allowed; e = {number(reading.e_value)}, pause at {gate.pause_at:g}, halt at {gate.halt_at:g}."
    )


def _worst(
    good: Mapping[int, int],
    bad: Mapping[int, int],
    found: Mapping[int, float],
    overall: float,
    names: Mapping[int, str],
) -> str:
    """The kind of device that the evidence is about, where it is about one more than about all."""
    if len(found) < 2:
        return ""
    worst = max(found, key=lambda stratum: (found[stratum], -stratum))
    if found[worst] <= max(1.0, overall):
        return ""
    ended = good[worst] + bad[worst]
    return (
        f" Most of it is {names[worst] or 'one kind'}: {bad[worst]:,} of {ended:,} failed, e = {number(found[worst])}."
    )


def _kept(value: float) -> float:
    """Six digits: what is logged decides, and logarithms of another machine may differ in the last of sixteen."""
    return float(f"{value:.6g}")

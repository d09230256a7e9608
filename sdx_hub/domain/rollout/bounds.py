"""Exact bounds of a rate that a few outcomes leave open: Clopper and Pearson's, one-sided.

C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
Biometrika 26 (1934). The upper bound of `bad` in `n` is the rate at which so few or fewer have a probability of 5 %;
the lower one that at which so many or more have. Both are quantiles of a beta distribution, found by bisection on the
regularised incomplete beta function, whose continued fraction is DLMF 8.17.22 (https://dlmf.nist.gov/8.17#v).
"""

from functools import lru_cache
from math import exp, lgamma, log, log1p

MISSED = 0.05
"""The probability with which a bound is wrong."""
_TINY = 1e-300
_CLOSE = 1e-12
_HALVINGS = 50


@lru_cache(maxsize=4096)
def upper(bad: int, n: int) -> float:
    """The largest rate that `bad` of `n` still allow, with 95 % confidence; 1 while there is nothing."""
    if bad >= n:
        return 1.0
    if bad == 0:
        return -exp(log(MISSED) / n) + 1.0
    return _quantile(1.0 - MISSED, bad + 1, n - bad)


@lru_cache(maxsize=4096)
def lower(bad: int, n: int) -> float:
    """The smallest rate that `bad` of `n` still allow, with 95 % confidence; 0 while there is nothing."""
    if bad <= 0:
        return 0.0
    if bad >= n:
        return exp(log(MISSED) / n)
    return _quantile(MISSED, bad, n - bad + 1)


def _quantile(share: float, a: int, b: int) -> float:
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if incomplete_beta(a, b, middle) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b): the probability that a beta-distributed rate is at most `x`."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    # The fraction converges fast only below the mean: above it, the other tail.
    return 1.0 - front * _fraction(b, a, 1.0 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction, by Lentz's method; it needs about the square root of the counts in steps."""
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 20_000):
        for part in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _not_zero(1.0 + part * d)
            c = _not_zero(1.0 + part / c)
            value *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY

"""The bounds are Clopper and Pearson's: the rates at which what was seen has a probability of just 5 %."""

from fractions import Fraction
from math import comb, isclose, sqrt

import pytest

from sdx_hub.domain.rollout.bounds import incomplete_beta, lower, upper


def at_most(bad: int, n: int, rate: float) -> float:
    """The probability of so many or fewer, exact."""
    p = Fraction(rate)
    return float(sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(bad + 1)))


@pytest.mark.parametrize(
    ("bad", "n", "published"),
    # "Rule of three" and the usual tables of exact 90 % intervals, whose upper ends are one-sided 95 % bounds.
    [(0, 1, 0.950), (0, 10, 0.259), (0, 20, 0.139), (0, 100, 0.030), (1, 10, 0.394), (2, 10, 0.507), (1, 20, 0.216)],
)
def test_upper_bounds_are_those_of_published_tables(bad: int, n: int, published: float) -> None:
    assert round(upper(bad, n), 3) == published


@pytest.mark.parametrize(("bad", "n"), [(0, 20), (1, 7), (3, 17), (5, 60), (59, 60), (12, 200)])
def test_the_tail_at_the_bound_is_five_percent(bad: int, n: int) -> None:
    assert isclose(at_most(bad, n, upper(bad, n)), 0.05, rel_tol=1e-6)
    if bad:
        assert isclose(1 - at_most(bad - 1, n, lower(bad, n)), 0.05, rel_tol=1e-6)


@pytest.mark.parametrize(("bad", "n"), [(10_000, 1_000_000), (150_000, 1_000_000), (999_000, 1_000_000)])
def test_a_million_outcomes_are_as_the_normal_approximation_says(bad: int, n: int) -> None:
    rate = bad / n
    wide = 1.6449 * sqrt(rate * (1 - rate) / n)
    assert isclose(upper(bad, n), rate + wide, rel_tol=1e-3)
    assert isclose(lower(bad, n), rate - wide, rel_tol=1e-3)


def test_nothing_allows_everything_and_all_failed_allows_no_less() -> None:
    assert (lower(0, 0), upper(0, 0)) == (0.0, 1.0)
    assert (lower(0, 5), upper(5, 5)) == (0.0, 1.0)
    assert isclose(lower(5, 5), 0.05 ** (1 / 5))


def test_the_incomplete_beta_function_is_the_binomial_tail() -> None:
    for n, k, x in [(5, 2, 0.3), (30, 7, 0.2), (30, 29, 0.99), (80, 40, 0.5)]:
        tail = 1 - at_most(k - 1, n, x)
        assert isclose(incomplete_beta(k, n - k + 1, x), tail, rel_tol=1e-9)

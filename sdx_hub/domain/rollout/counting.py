"""How many members are in which state: sums over the tallies that a decision is made of."""

from collections.abc import Collection

from sdx_hub.domain.rollout.facts import Facts, Tally
from sdx_hub.domain.rollout.states import BAD, GOOD, IN_FLIGHT

UNDER_WAY = frozenset(IN_FLIGHT)
PENDING = frozenset({"queued", *IN_FLIGHT})
"""A wave is not over while members are in one of these."""


def count(facts: Facts, states: Collection[str], wave: int | None = None) -> int:
    """Members in one of the states, in one wave or in all."""
    return sum(tally.devices for tally in facts.tallies if tally.state in states and wave in {None, tally.wave})


def count_through(facts: Facts, states: Collection[str], wave: int) -> int:
    """Members in one of the states, in this wave and those before it."""
    return sum(tally.devices for tally in facts.tallies if tally.state in states and tally.wave <= wave)


def by_stratum(tallies: Collection[Tally], states: Collection[str]) -> dict[int, int]:
    """Members in one of the states, for each stratum that has any."""
    found: dict[int, int] = {}
    for tally in tallies:
        if tally.state in states:
            found[tally.stratum] = found.get(tally.stratum, 0) + tally.devices
    return found


def good(facts: Facts) -> dict[int, int]:
    return by_stratum(facts.tallies, GOOD)


def bad(facts: Facts) -> dict[int, int]:
    return by_stratum(facts.tallies, BAD)


def strata(facts: Facts) -> dict[int, str]:
    """Names of the strata that have members."""
    return {number: facts.strata.get(number, "") for number in sorted({tally.stratum for tally in facts.tallies})}

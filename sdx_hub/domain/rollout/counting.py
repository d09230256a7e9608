"""How many members are in which state: sums over the tallies that a decision is made of."""

from collections.abc import Collection

from sdx_hub.domain.rollout.evidence import Outcomes
from sdx_hub.domain.rollout.facts import Facts, Tally
from sdx_hub.domain.rollout.states import AFTER_SWITCH, BAD, GOOD, IN_FLIGHT

UNDER_WAY = frozenset(IN_FLIGHT)
PENDING = frozenset({"queued", *IN_FLIGHT})
"""A wave is not over while members are in one of these."""
_BROKEN = ("rolled_back", "lost")
_COUNTS_AS = {
    **dict.fromkeys(GOOD, "committed"),
    **dict.fromkeys(IN_FLIGHT, "under_way"),
    **dict.fromkeys(AFTER_SWITCH, "on_trial"),
    **dict.fromkeys(BAD, "stopped"),
    **dict.fromkeys(_BROKEN, "broken"),
}


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


def outcomes(facts: Facts) -> dict[int, Outcomes]:
    """What became of members, for each stratum that has any."""
    numbers = sorted({tally.stratum for tally in facts.tallies})
    found = {number: dict.fromkeys(Outcomes.__struct_fields__, 0) for number in numbers}
    for tally in facts.tallies:
        if tally.state in _COUNTS_AS:
            found[tally.stratum][_COUNTS_AS[tally.state]] += tally.devices
    return {number: Outcomes(**counts) for number, counts in found.items()}

"""Decisions made again, and outcomes counted again, on the machine of whoever doubts them. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

import msgspec
from msgspec import Struct

from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Decision, Facts, Rule

_ENGINE, _RULES = "hub", frozenset(get_args(Rule))
Cell = tuple[int, int, str]
"""Wave, stratum, state."""


class Replayed(Struct, frozen=True):
    """A decision of the log, looked at again.

    Attributes:
        decided: Whether the same facts give the same decision; None where a person decided.
        counted: Whether the outcomes up to then give the same counts; None before there were members.
        differs: What differs, in words; empty where nothing does.
    """

    id: int
    decided: bool | None
    counted: bool | None
    differs: str = ""


def replay(
    decisions: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]], shown: Mapping[str, Any]
) -> Iterator[Replayed]:
    """Make every decision of the engine again, and count every state of every wave again.

    Args:
        decisions: All of them, the oldest first, as the hub shows them.
        outcomes: All of them, the oldest first.
        shown: The rollout: how many members of each kind each wave has, which no outcome changes.
    """
    following = _Counting(outcomes, shown)
    for line in decisions:
        facts = msgspec.json.decode(msgspec.json.encode(line["facts"]), type=Facts)
        decision = msgspec.json.decode(msgspec.json.encode(line["decision"]), type=Decision)
        decided, differs = None, ""
        if line["actor"] == _ENGINE and line["rule"] in _RULES:
            again = decide(facts)
            decided = again == decision
            if not decided:
                differs = f"these facts give {again.rule}: {again.sentence}"
        counted = None
        if facts.waves and facts.tallies:
            found = following.through(facts.outcomes_through)
            logged = Counter({(each.wave, each.stratum, each.state): each.devices for each in facts.tallies})
            counted = found == logged
            if not counted:
                differs = "; ".join(filter(None, [differs, _difference(logged, found)]))
        yield Replayed(line["id"], decided, counted, differs)


class _Counting:
    """Members by wave, stratum and state, as the outcomes go on."""

    def __init__(self, outcomes: Iterable[Mapping[str, Any]], shown: Mapping[str, Any]) -> None:
        self._left = list(outcomes)
        self._left.reverse()
        self._cells: Counter[Cell] = Counter()
        for stratum in shown["strata"]:
            for wave, devices in stratum["members"].items():
                self._cells[int(wave), stratum["stratum"], "queued"] += devices
        for line in self._left:
            # Who joined later is among the members that are shown, and was not there at the beginning.
            if not line["was"] and line["id"] <= shown["outcomes_through"]:
                self._cells[line["wave"], line["stratum"], "queued"] -= 1

    def through(self, outcome: int) -> Counter[Cell]:
        """The counts after this outcome."""
        while self._left and self._left[-1]["id"] <= outcome:
            line = self._left.pop()
            if line["was"]:
                self._cells[line["wave"], line["stratum"], line["was"]] -= 1
            self._cells[line["wave"], line["stratum"], line["state"]] += 1
        return Counter({cell: devices for cell, devices in self._cells.items() if devices})


def _difference(logged: Counter[Cell], found: Counter[Cell]) -> str:
    cell = next(cell for cell in (*logged, *found) if logged[cell] != found[cell])
    wave, stratum, state = cell
    return (
        f"the outcomes give {found[cell]} {state} in wave {wave}, stratum {stratum}, and the decision was made of "
        f"{logged[cell]}"
    )

"""Decisions made again, and outcomes counted again, on the machine of whoever doubts them. Pure."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
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
) -> list[Replayed]:
    """Make every decision of the engine again, and count every state of every wave again.

    Args:
        decisions: All of them, the oldest first, as the hub shows them.
        outcomes: All of them, the oldest first; read once, and no further than the rollout that is shown.
        shown: The rollout, later than the decisions: how many members of each kind each wave has.
    """
    moves = _Moves(outcomes)
    looked_at = []
    for line in decisions:
        facts = msgspec.json.decode(msgspec.json.encode(line["facts"]), type=Facts)
        looked_at.append((line, facts, moves.through(facts.outcomes_through)))
    moves.through(shown["outcomes_through"])
    began = _began(shown, moves.joined)
    return [_replayed(line, facts, Counter(began), moved) for line, facts, moved in looked_at]


def digest(line: Mapping[str, Any]) -> str:
    """The SHA-256 of a decision and its facts as the hub keeps them, which is what its audit chain holds."""
    parts = (msgspec.json.encode(line[name]) for name in ("facts", "decision"))
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


class _Moves:
    """How many more, or fewer, members of each wave, kind and state there are than at the beginning.

    Attributes:
        joined: Of those, the ones that were not there at the beginning, by wave and kind.
    """

    def __init__(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        self._outcomes = iter(outcomes)
        self._next = next(self._outcomes, None)
        self._cells: Counter[Cell] = Counter()
        self.joined: Counter[tuple[int, int]] = Counter()

    def through(self, outcome: int) -> Counter[Cell]:
        """As it was after the outcome with this id."""
        while self._next is not None and self._next["id"] <= outcome:
            line = self._next
            self._cells[line["wave"], line["stratum"], line["state"]] += 1
            if line["was"]:
                self._cells[line["wave"], line["stratum"], line["was"]] -= 1
            else:
                self.joined[line["wave"], line["stratum"]] += 1
            self._next = next(self._outcomes, None)
        return Counter(self._cells)


def _began(shown: Mapping[str, Any], joined: Mapping[tuple[int, int], int]) -> Counter[Cell]:
    """The members of the plan, who are all queued: those that there are now without those that joined."""
    cells: Counter[Cell] = Counter()
    for stratum in shown["strata"]:
        for wave, devices in stratum["members"].items():
            place = int(wave), int(stratum["stratum"])
            cells[*place, "queued"] = devices - joined.get(place, 0)
    return cells


def _replayed(line: Mapping[str, Any], facts: Facts, began: Counter[Cell], moved: Counter[Cell]) -> Replayed:
    decided, counted, differs = None, None, []
    if line["actor"] == _ENGINE and line["rule"] in _RULES:
        again = decide(facts)
        decided = again == msgspec.json.decode(msgspec.json.encode(line["decision"]), type=Decision)
        if not decided:
            differs.append(f"these facts give {again.rule}: {again.sentence}")
    if facts.waves and facts.tallies:
        began.update(moved)
        found = Counter({cell: devices for cell, devices in began.items() if devices})
        logged = Counter({(each.wave, each.stratum, each.state): each.devices for each in facts.tallies})
        counted = found == logged
        if not counted:
            differs.append(_difference(logged, found))
    return Replayed(line["id"], decided, counted, "; ".join(differs))


def _difference(logged: Counter[Cell], found: Counter[Cell]) -> str:
    cell = next(cell for cell in (*logged, *found) if logged[cell] != found[cell])
    wave, stratum, state = cell
    return (
        f"the outcomes give {found[cell]} {state} in wave {wave}, stratum {stratum}, and the decision was made of "
        f"{logged[cell]}"
    )

"""How a rollout is cut into waves: `1`, `25%`, or a query for a group.

Numbers say how many devices have been offered the release by the end of the wave, in total. A group's devices come in
the group's wave and in no other one; numbers choose among the devices that are in no group.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Final

from msgspec import Struct

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query import Query, QueryError, parse
from sdx_hub.domain.rollout.policy import MAX_WAVES

_COUNT: Final = re.compile(r"[0-9]{1,9}")
_PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)\s*%")
_LIKE_A_NUMBER: Final = re.compile(r"[-+.0-9]|.*%\s*$", re.DOTALL)
_PIECE: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|.', re.DOTALL)
_HELP: Final = "Write a count (5), a percentage (25%) or a query for a group (tag = canary)."


class Count(Struct, frozen=True):
    """So many devices by the end of the wave."""

    label: str
    devices: int

    def target(self, _: int) -> int:
        return self.devices


class Percent(Struct, frozen=True):
    """Such a part of all devices by the end of the wave, rounded up."""

    label: str
    percent: Fraction

    def target(self, devices: int) -> int:
        return -int(-devices * self.percent // 100)


class Group(Struct, frozen=True):
    """The devices of the rollout that match this query, too."""

    label: str
    query: Query


Wave = Count | Percent | Group


def split_waves(text: str) -> tuple[str, ...]:
    """Take `1, 10%, tag in (alpha, beta), 100%` apart at the commas that are outside of quotes and brackets.

    Raises:
        BadInput: There is nothing between two commas (code `waves_invalid`).
    """
    parts, depth = [""], 0
    for piece in _PIECE.findall(text):
        depth += {"(": 1, ")": -1}.get(piece, 0)
        if piece == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += piece
    waves = tuple(part.strip() for part in parts)
    if not all(waves):
        raise BadInput(f"There is an empty wave in {text[:80]!r}. {_HELP}", "waves_invalid")
    return waves


def parse_waves(texts: Sequence[str]) -> tuple[Wave, ...]:
    """Understand the waves of an order.

    Raises:
        BadInput: One is none, or a number does not grow from one wave to the next (code `waves_invalid`).
    """
    if not 1 <= len(texts) <= MAX_WAVES:
        raise BadInput(f"A rollout has 1 to {MAX_WAVES} waves, not {len(texts)}.", "waves_invalid")
    waves = tuple(_wave(text.strip()) for text in texts)
    for kind in (Count, Percent):
        numbers: list[Count | Percent] = [wave for wave in waves if isinstance(wave, kind)]
        _refuse_shrinking(numbers)
    return waves


def _refuse_shrinking(numbers: Sequence[Count | Percent]) -> None:
    for before, after in pairwise(numbers):
        if after.target(10**9) <= before.target(10**9):
            raise BadInput(
                f"The wave {after.label} comes after {before.label} and is not larger. Numbers of waves say how many "
                "devices there are in total by the end of the wave: 1, 10%, 50%, 100%.",
                "waves_invalid",
            )


def _wave(text: str) -> Wave:
    if _COUNT.fullmatch(text) and int(text) > 0:
        return Count(text, int(text))
    if (match := _PERCENT.fullmatch(text)) and 0 < (percent := Fraction(match[1])) <= 100:
        return Percent(text, percent)
    if _LIKE_A_NUMBER.match(text):
        raise BadInput(
            f"{text[:80]!r} is no wave: a count is from 1 to 999999999, a percentage above 0% up to 100%. {_HELP}",
            "waves_invalid",
        )
    try:
        return Group(text, parse(text))
    except QueryError as error:
        raise BadInput(f"{text[:80]!r} is no wave. {_HELP} As a query: {error}", "waves_invalid") from error


def sizes(waves: Sequence[Wave], pool: int, groups: Sequence[int]) -> tuple[int, ...]:
    """How many devices each wave has. The last ones have none where there are not enough.

    Args:
        waves: In their order.
        pool: Devices that are in no group.
        groups: Devices of each group, in the order of the groups' waves.
    """
    members, offered, left = pool + sum(groups), 0, pool
    remaining, found = iter(groups), []
    for wave in waves:
        if isinstance(wave, Group):
            size = next(remaining)
        else:
            # A wave that waits for nobody would open and close without having shown anything.
            size = min(left, max(wave.target(members) - offered, 1))
            left -= size
        offered += size
        found.append(size)
    return tuple(found)

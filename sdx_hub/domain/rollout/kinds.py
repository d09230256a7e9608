"""Kinds of devices (strata), by what waves are balanced by."""

import re
from collections.abc import Sequence
from typing import Final

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query.terms import ATTRIBUTE

MAX_STRATA: Final = 64
"""Each has its own gate, and is in every decision that is kept."""
OTHERS: Final = "(others)"
"""The kinds that are too small to be told apart."""
EVERYTHING: Final = "(all)"
_MISSING: Final = "-"
_SHAPE: Final = re.compile(r"hardware|attribute\.[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?")

Kind = tuple[str | None, ...]
"""What a device has of each thing that waves are balanced by."""


def check_stratify(texts: Sequence[str]) -> None:
    """Return if waves can be balanced by these.

    Raises:
        BadInput: One is neither `hardware` nor `attribute.NAME` (code `stratify_invalid`).
    """
    for text in texts:
        if not _SHAPE.fullmatch(text):
            raise BadInput(
                f"Waves cannot be balanced by {text[:80]!r}. Write hardware, or {ATTRIBUTE}NAME, for instance "
                f"{ATTRIBUTE}site.",
                "stratify_invalid",
            )


def strata_of(kinds: Sequence[Kind], sizes: Sequence[int]) -> tuple[list[str], list[int]]:
    """Make strata of the kinds: the largest ones have each their own, all others together the last.

    Args:
        kinds: Each once.
        sizes: Devices of each kind.

    Returns:
        The strata's names, the largest first, and for each kind the index of its stratum.
    """
    names = _names(kinds)
    ranked = sorted(range(len(kinds)), key=lambda kind: (-sizes[kind], names[kind]))
    own = ranked if len(ranked) <= MAX_STRATA else ranked[: MAX_STRATA - 1]
    stratum = [len(own)] * len(kinds)
    for index, kind in enumerate(own):
        stratum[kind] = index
    return [names[kind] for kind in own] + [OTHERS] * (len(own) < len(kinds)), stratum


def _names(kinds: Sequence[Kind]) -> list[str]:
    """`quad-x4 / north / lte`, without what no device has."""
    told = [place for place, values in enumerate(zip(*kinds, strict=True)) if any(values)]
    if not told:
        return [EVERYTHING] * len(kinds)
    return [" / ".join(kind[place] or _MISSING for place in told) for kind in kinds]

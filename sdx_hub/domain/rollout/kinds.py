"""Kinds of devices (strata), by what waves are balanced by: `quad-x4 / site=north / link=lte`."""

import re
from collections import Counter as Tally
from collections.abc import Sequence
from typing import Final

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query.terms import ATTRIBUTE

MAX_STRATA: Final = 64
"""Each has its own gate, and is in every decision that is kept."""
OTHERS: Final = "(others)"
"""The kinds that are too small to be told apart, and those that came later."""
_NOTHING: Final = "-"
_SHAPE: Final = re.compile(r"hardware|attribute\.[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?")


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


def name_of(values: Sequence[str | None], stratify: Sequence[str]) -> str:
    """The name of a kind; what it does not have is left out.

    Args:
        values: What the device has of each thing.
        stratify: The things: `hardware`, `attribute.NAME`.
    """
    parts = [
        f"{thing.removeprefix(ATTRIBUTE)}={value}" if thing.startswith(ATTRIBUTE) else value
        for thing, value in zip(stratify, values, strict=True)
        if value
    ]
    return " / ".join(parts) or _NOTHING


def strata_of(names: Sequence[str], sizes: Sequence[int]) -> tuple[list[str], list[int]]:
    """Make strata of the kinds: the largest ones have each their own, all others together the last.

    Args:
        names: Of each kind; several may be called the same.
        sizes: Devices of each kind.

    Returns:
        The strata's names, the largest first, and for each kind the index of its stratum.
    """
    sized = Tally[str]()
    for name, size in zip(names, sizes, strict=True):
        sized[name] += size
    ranked = sorted(sized, key=lambda name: (-sized[name], name))
    own = ranked if len(ranked) <= MAX_STRATA else [*ranked[: MAX_STRATA - 1], OTHERS]
    index = {name: stratum for stratum, name in enumerate(own)}
    return own, [index.get(name, len(own) - 1) for name in names]

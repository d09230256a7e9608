"""Types of events, and patterns of them: `rollout.halted`, or `rollout.*` for all that begin so."""

import re
from collections.abc import Sequence
from typing import Final

from sdx_hub.domain.errors import BadInput

MAX_PATTERNS: Final = 20
MAX_PATTERN_CHARS: Final = 64
_ALL_BELOW: Final = ".*"
_PATTERN: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?")


def check_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return them sorted, each once.

    Raises:
        BadInput: One is no pattern, or there are too many (code `invalid_event_type`).
    """
    if len(patterns) > MAX_PATTERNS:
        raise BadInput(f"{MAX_PATTERNS} types at the most: take a pattern such as rollout.*", "invalid_event_type")
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN_CHARS or not _PATTERN.fullmatch(pattern):
            raise BadInput(
                f"{pattern[:MAX_PATTERN_CHARS]!r} is no type of events: write rollout.halted, or rollout.* for all "
                "that begin so.",
                "invalid_event_type",
            )
    return tuple(sorted(set(patterns)))


def matches(patterns: Sequence[str], kind: str) -> bool:
    """Whether a type is wanted; no patterns want everything."""
    return not patterns or any(
        kind.startswith(pattern[:-1]) if pattern.endswith(_ALL_BELOW) else kind == pattern for pattern in patterns
    )

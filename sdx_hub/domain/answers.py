"""Answers to "why?": a verdict for machines, sentences for people, and what would change it."""

from datetime import timedelta

from msgspec import Struct


class Answer(Struct, frozen=True):
    """The answer.

    Attributes:
        verdict: A stable name; which ones there are, the function that answers says.
        reasons: What is known, the most important first.
        changes: What would change it.
    """

    verdict: str
    reasons: tuple[str, ...]
    changes: tuple[str, ...] = ()


def span(length: timedelta) -> str:
    """A length of time for people, rounded down: `90 s`, `15 min`, `2 h`, `7 days`."""
    seconds = max(0, int(length.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7_200:
        return f"{seconds // 60} min"
    return f"{seconds // 3_600} h" if seconds < 172_800 else f"{seconds // 86_400} days"

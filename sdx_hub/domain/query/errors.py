"""What is wrong with a query, and where."""

from collections.abc import Sequence

from sdx_hub.domain.errors import BadInput

_AROUND = 60


class QueryError(BadInput):
    """A text is no query.

    Args:
        message: What was found, and what was expected.
        position: Of the first character that cannot be, from 0; the text's length where more was expected.
        expected: What could stand there.
    """

    default_code = "query_invalid"

    def __init__(self, message: str, position: int, expected: Sequence[str] = ()) -> None:
        super().__init__(message, position=position, expected=list(expected))


def caret(text: str, position: int) -> str:
    """Two lines for a terminal: the text around a position, and a caret below it."""
    start = max(0, position - _AROUND)
    part = "".join(char if char.isprintable() else " " for char in text[start : position + _AROUND])
    before, after = "..." * (start > 0), "..." * (position + _AROUND < len(text))
    return f"{before}{part}{after}\n{' ' * (len(before) + position - start)}^"

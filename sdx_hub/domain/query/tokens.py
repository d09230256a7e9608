"""A query's text in pieces."""

import re
import unicodedata

from msgspec import Struct

from sdx_hub.domain.query.errors import QueryError

MAX_QUERY_CHARS = 4_096

_PIECE = re.compile(
    r"""(?P<space>\s+)
      | (?P<word>[\w*][\w.@+/:*-]*)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<sign><=|>=|!=|!~|[=~<>(),])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NEVER_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})


class Token(Struct, frozen=True):
    """A piece.

    Attributes:
        kind: `word`, `string`, `sign` or `end`.
        text: As it was written.
        position: Of its first character, from 0.
    """

    kind: str
    text: str
    position: int

    @property
    def value(self) -> str:
        """What a word or a string means."""
        return _ESCAPE.sub(r"\1", self.text[1:-1]) if self.kind == "string" else self.text

    def __str__(self) -> str:
        if self.kind == "end":
            return "the end of the query"
        return self.text if self.kind == "string" else f'"{self.text}"'


def tokens(text: str) -> list[Token]:
    """Take a text apart; the last piece is always `end`.

    Raises:
        QueryError: It is too long, or has something in it that no query has.
    """
    if len(text) > MAX_QUERY_CHARS:
        raise QueryError(f"A query has at most {MAX_QUERY_CHARS} characters; save parts of it as filters.", 0)
    found: list[Token] = []
    position = 0
    while position < len(text):
        piece = _PIECE.match(text, position)
        if piece is None:
            if text[position] == '"':
                raise QueryError("This text has no closing quote.", position, ['"'])
            raise QueryError(
                f"{text[position]!a} has no meaning here; put texts with unusual characters into quotes.", position
            )
        if piece.lastgroup != "space":
            if piece.lastgroup == "string":
                _refuse_controls(piece[0], position)
            found.append(Token(str(piece.lastgroup), piece[0], position))
        position = piece.end()
    return [*found, Token("end", "", len(text))]


def _refuse_controls(text: str, position: int) -> None:
    """No device has such characters in what it is called, and PostgreSQL takes no NUL in a text."""
    for offset, char in enumerate(text):
        if unicodedata.category(char) in _NEVER_TEXT:
            raise QueryError(f"{char!a} cannot be part of a text.", position + offset)

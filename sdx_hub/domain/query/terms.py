"""The tree of a query, and its canonical text.

Every test asks whether something of the device is there: one of its tags, a component of that product, an attribute of
that name. What is missing matches no test, and `!=`, `not in` and `!~` are exactly `not` of what they negate.
"""

import re
from typing import Literal

from msgspec import Struct

ATTRIBUTE = "attribute."
MANY_TIMES = ("tag", "runs", "assigned")
"""A device has any number of these; a test holds when one of them does."""
ENUMERATED = {
    "state": ("pending", "accepted", "revoked"),
    "action": ("open", "success", "failed", "rolled_back", "refused", "cancelled", "superseded"),
}
TEXT_FIELDS = ("id", "serial", "hardware", *MANY_TIMES)
AGE_FIELDS = ("seen", "enrolled")
KEYWORDS = frozenset({"and", "or", "not", "in"})

Order = Literal["<", "<=", ">", ">="]
Comparison = Literal["=", "<", "<=", ">", ">="]

_BARE = re.compile(r"[\w][\w.@+/:-]*")
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


class OneOf(Struct, frozen=True, tag=True):
    """`tag = alpha`, `tag in (alpha, beta)`: one of these, exactly.

    Attributes:
        field: One of `TEXT_FIELDS` or `ENUMERATED`, or `attribute.NAME`.
    """

    field: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.field} {_listed('=', 'in', self.values)}"


class Like(Struct, frozen=True, tag=True):
    """`serial ~ "north-*"`: `*` stands for any number of any characters."""

    field: str
    pattern: str

    def __str__(self) -> str:
        return f"{self.field} ~ {_quoted(self.pattern)}"


class VersionIs(Struct, frozen=True, tag=True):
    """`version(mavsdk) < 3.17`: a component of that product that the device reported, compared by `domain.versions`.

    Attributes:
        versions: Several only with `=`.
    """

    product: str
    comparison: Comparison
    versions: tuple[str, ...]

    def __str__(self) -> str:
        return f"version({self.product}) {_listed(self.comparison, 'in', self.versions)}"


class Aged(Struct, frozen=True, tag=True):
    """`seen < 7d`: how long ago. What never happened is longer ago than anything."""

    field: str
    order: Order
    seconds: int

    def __str__(self) -> str:
        unit, size = next(each for each in _UNITS if self.seconds % each[1] == 0)
        return f"{self.field} {self.order} {self.seconds // size}{unit}"


class NeverSeen(Struct, frozen=True, tag=True):
    """`seen = never`: it enrolled, and has not polled since."""

    def __str__(self) -> str:
        return "seen = never"


class Saved(Struct, frozen=True, tag=True):
    """`filter(NAME)`: a query that somebody saved. Only `expand` knows what it says."""

    name: str

    def __str__(self) -> str:
        return f"filter({self.name})"


class Not(Struct, frozen=True, tag=True):
    """Make one with `negate`."""

    term: "Query"

    def __str__(self) -> str:
        match self.term:
            case OneOf(field, values):
                return f"{field} {_listed('!=', 'not in', values)}"
            case Like(field, pattern):
                return f"{field} !~ {_quoted(pattern)}"
            case VersionIs(product, "=", versions):
                return f"version({product}) {_listed('!=', 'not in', versions)}"
            case NeverSeen():
                return "seen != never"
        return f"not {_in_brackets(self.term)}"


class Every(Struct, frozen=True, tag=True):
    """`a and b and c`; make one with `every`."""

    terms: "tuple[Query, ...]"

    def __str__(self) -> str:
        return " and ".join(str(term) if not isinstance(term, Some) else f"({term})" for term in self.terms)


class Some(Struct, frozen=True, tag=True):
    """`a or b or c`; make one with `some`."""

    terms: "tuple[Query, ...]"

    def __str__(self) -> str:
        return " or ".join(str(term) for term in self.terms)


Query = OneOf | Like | VersionIs | Aged | NeverSeen | Saved | Not | Every | Some


def negate(term: Query) -> Query:
    return term.term if isinstance(term, Not) else Not(term)


def every(terms: list[Query]) -> Query:
    """All of these, without a level more than needed."""
    flat = [part for term in terms for part in (term.terms if isinstance(term, Every) else (term,))]
    return flat[0] if len(flat) == 1 else Every(tuple(flat))


def some(terms: list[Query]) -> Query:
    """At least one of these, without a level more than needed."""
    flat = [part for term in terms for part in (term.terms if isinstance(term, Some) else (term,))]
    return flat[0] if len(flat) == 1 else Some(tuple(flat))


def _in_brackets(term: Query) -> str:
    return f"({term})" if isinstance(term, Every | Some) else str(term)


def _listed(one: str, several: str, values: tuple[str, ...]) -> str:
    if len(values) == 1:
        return f"{one} {_text(values[0])}"
    return f"{several} ({', '.join(_text(value) for value in values)})"


def _text(value: str) -> str:
    return value if _BARE.fullmatch(value) and value.lower() not in KEYWORDS else _quoted(value)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""Putting saved filters into a query in place of their names."""

from collections.abc import Iterator, Mapping

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query.terms import Every, Not, Query, Saved, Some, every, negate, some

MAX_EXPANDED_TESTS = 500
MAX_EXPANDED_DEPTH = 40
"""Levels of the tree; each is several calls deep where SQL is made of it."""


def names_in(query: Query) -> set[str]:
    """The filters that a query names itself."""
    return {term.name for term in tests_in(query) if isinstance(term, Saved)}


def tests_in(query: Query) -> Iterator[Query]:
    """What a query is made of, without `and`, `or` and `not`."""
    match query:
        case Not(term):
            yield from tests_in(term)
        case Every(terms) | Some(terms):
            for term in terms:
                yield from tests_in(term)
        case _:
            yield query


def expand(query: Query, filters: Mapping[str, Query]) -> Query:
    """Put in what each `filter(NAME)` says, and what those say in turn.

    Args:
        query: As it was parsed.
        filters: Every filter that is named, directly or by another one.

    Raises:
        BadInput: There is no such filter (code `filter_unknown`), one names itself in a circle (`filter_circular`), or
            the whole is too large (`query_too_large`).
    """
    return _Expansion(filters).of(query, ())


class _Expansion:
    def __init__(self, filters: Mapping[str, Query]) -> None:
        self._filters = filters
        self._tests = 0

    def of(self, query: Query, within: tuple[str, ...], depth: int = 0) -> Query:
        if depth > MAX_EXPANDED_DEPTH:
            raise BadInput("With its filters put in, this query has too many brackets.", "query_too_large")
        match query:
            case Saved(name):
                if name in within:
                    circle = " -> ".join((*within, name))
                    raise BadInput(f"The filter {name} names itself: {circle}.", "filter_circular")
                if name not in self._filters:
                    raise BadInput(f"There is no filter {name}. See: sdx filter list.", "filter_unknown")
                return self.of(self._filters[name], (*within, name), depth + 1)
            case Not(term):
                return negate(self.of(term, within, depth + 1))
            case Every(terms):
                return every([self.of(term, within, depth + 1) for term in terms])
            case Some(terms):
                return some([self.of(term, within, depth + 1) for term in terms])
        self._tests += 1
        if self._tests > MAX_EXPANDED_TESTS:
            raise BadInput(
                f"With its filters put in, this query has more than {MAX_EXPANDED_TESTS} tests.", "query_too_large"
            )
        return query

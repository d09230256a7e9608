"""From text to tree, by recursive descent.

    query   = every { "or" every }
    every   = term { "and" term }
    term    = "not" term | "(" query ")" | test
    test    = "filter" "(" NAME ")"
            | "version" "(" PRODUCT ")" ( order VERSION | equal VERSION | [ "not" ] "in" versions )
            | ( "seen" | "enrolled" ) order DURATION
            | "seen" equal "never"
            | field ( equal TEXT | [ "not" ] "in" texts | ( "~" | "!~" ) PATTERN )
    field   = "id" | "serial" | "hardware" | "state" | "tag" | "runs" | "assigned" | "action" | "attribute." NAME
    equal   = "=" | "!="
    order   = "<" | "<=" | ">" | ">="
    texts   = "(" TEXT { "," TEXT } ")"                      versions likewise

A text is a word, or anything in double quotes, where a backslash makes the next character a plain one.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from firmware_schemas.errors import InvalidName
from firmware_schemas.ids import check_name, check_version
from sdx_hub.domain.query.errors import QueryError
from sdx_hub.domain.query.terms import (
    AGE_FIELDS,
    ATTRIBUTE,
    ENUMERATED,
    KEYWORDS,
    TEXT_FIELDS,
    Aged,
    Like,
    NeverSeen,
    OneOf,
    Query,
    Saved,
    VersionIs,
    every,
    negate,
    some,
)
from sdx_hub.domain.query.tokens import Token, tokens

MAX_DEPTH = 16
MAX_TESTS = 100
MAX_VALUES = 500
"""In all lists of a query together."""
MAX_TEXT_CHARS = 512
MAX_AGE_S = 3_650 * 86_400

_ORDERS = ("<", "<=", ">", ">=")
_FIRST_WORDS = frozenset({*TEXT_FIELDS, *ENUMERATED, *AGE_FIELDS, "version", "filter"})
_FIELDS = (*TEXT_FIELDS, *ENUMERATED, *AGE_FIELDS, f"{ATTRIBUTE}NAME", "version(PRODUCT)", "filter(NAME)")
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse(text: str) -> Query:
    """Make a tree of a query.

    Raises:
        QueryError: It is none (code `query_invalid`, members `position` and `expected`).
    """
    parser = _Parser(tokens(text))
    query = parser.query(0)
    parser.end()
    return query


class _Parser:
    def __init__(self, pieces: Sequence[Token]) -> None:
        self._pieces = pieces
        self._at = 0
        self._tests = 0
        self._values = 0

    @property
    def _next(self) -> Token:
        return self._pieces[self._at]

    def query(self, depth: int) -> Query:
        terms = [self._every(depth)]
        while self._take_word("or"):
            terms.append(self._every(depth))
        return some(terms)

    def end(self) -> None:
        if self._next.kind != "end":
            raise self._refusal("and", "or", "the end of the query")

    def _every(self, depth: int) -> Query:
        terms = [self._term(depth)]
        while self._take_word("and"):
            terms.append(self._term(depth))
        return every(terms)

    def _term(self, depth: int) -> Query:
        if depth >= MAX_DEPTH:
            raise QueryError(f"A query is at most {MAX_DEPTH} brackets deep.", self._next.position)
        if self._take_word("not"):
            return negate(self._term(depth + 1))
        if self._take_sign("("):
            inner = self.query(depth + 1)
            self._expect(")")
            return inner
        return self._test()

    def _test(self) -> Query:
        start = self._next
        self._tests += 1
        if self._tests > MAX_TESTS:
            raise QueryError(f"A query has at most {MAX_TESTS} tests; save parts of it as filters.", start.position)
        if start.kind != "word":
            raise self._refusal(*_FIELDS)
        name = start.text
        named = name.startswith(ATTRIBUTE) and _ATTRIBUTE_NAME.fullmatch(name.removeprefix(ATTRIBUTE))
        if not named and name not in _FIRST_WORDS:
            raise self._refusal(*_FIELDS)
        self._at += 1
        if name == "filter":
            return Saved(self._named("filter"))
        if name == "version":
            return self._version(self._named("product"))
        if name in AGE_FIELDS:
            return self._age(name)
        return self._text_test(name)

    def _text_test(self, field: str) -> Query:
        allowed = ENUMERATED.get(field)
        sign = self._sign("=", "!=", *(() if allowed else ("~", "!~")), "in", "not in")
        match sign:
            case "=" | "!=":
                test: Query = OneOf(field, (self._value(allowed),))
            case "in" | "not in":
                test = OneOf(field, tuple(self._list(allowed)))
            case _:
                test = Like(field, self._text("a pattern"))
        return negate(test) if sign in {"!=", "not in", "!~"} else test

    def _version(self, product: str) -> Query:
        sign: Any = self._sign("=", "!=", *_ORDERS, "in", "not in")
        if sign in {"in", "not in"}:
            test = VersionIs(product, "=", tuple(self._list(None, versions=True)))
        else:
            test = VersionIs(product, "=" if sign == "!=" else sign, (self._value(None, version=True),))
        return negate(test) if sign in {"!=", "not in"} else test

    def _age(self, field: str) -> Query:
        signs = (*_ORDERS, "=", "!=") if field == "seen" else _ORDERS
        sign: Any = self._sign(*signs)
        token = self._next
        if sign in {"=", "!="}:
            if not self._take_word("never"):
                raise self._refusal("never")
            return negate(NeverSeen()) if sign == "!=" else NeverSeen()
        duration = _DURATION.fullmatch(token.value)
        if duration is None:
            raise self._refusal("a duration, for instance 90s, 15m, 12h, 7d, 2w")
        seconds = int(duration[1]) * _SECONDS[duration[2]]
        if seconds > MAX_AGE_S:
            raise QueryError(f"A duration is at most {MAX_AGE_S // 86_400}d.", token.position)
        self._at += 1
        return Aged(field, sign, seconds)

    def _named(self, what: str) -> str:
        """`(NAME)` after a word."""
        self._expect("(")
        token = self._next
        name = self._text(f"the name of a {what}")
        try:
            check_name(name, what)
        except InvalidName as error:
            raise QueryError(str(error), token.position) from None
        self._expect(")")
        return name

    def _list(self, allowed: Sequence[str] | None, *, versions: bool = False) -> list[str]:
        self._expect("(")
        values = [self._value(allowed, version=versions)]
        while self._take_sign(","):
            values.append(self._value(allowed, version=versions))
        if not self._take_sign(")"):
            raise self._refusal(",", ")")
        return values

    def _value(self, allowed: Sequence[str] | None, *, version: bool = False) -> str:
        token = self._next
        self._values += 1
        if self._values > MAX_VALUES:
            raise QueryError(f"A query has at most {MAX_VALUES} values.", token.position)
        if token.kind == "word" and "*" in token.text:
            raise QueryError(
                'The "*" of a pattern has a meaning only after ~; in quotes it is a character like any other.',
                token.position,
                ["~", "!~"],
            )
        if allowed is not None and token.value not in allowed:
            raise self._refusal(*allowed)
        value = self._text("a version" if version else "a value")
        if version:
            try:
                check_version(value)
            except InvalidName as error:
                raise QueryError(str(error), token.position) from None
        return value

    def _text(self, what: str) -> str:
        token = self._next
        if token.kind not in {"word", "string"} or (token.kind == "word" and token.text.lower() in KEYWORDS):
            raise self._refusal(what)
        if len(token.value) > MAX_TEXT_CHARS:
            raise QueryError(f"A text has at most {MAX_TEXT_CHARS} characters.", token.position)
        self._at += 1
        return token.value

    def _sign(self, *allowed: str) -> str:
        token = self._next
        if token.kind == "sign" and token.text in allowed:
            self._at += 1
            return token.text
        if "in" in allowed:
            if self._take_word("in"):
                return "in"
            if self._take_word("not"):
                if not self._take_word("in"):
                    raise self._refusal("in")
                return "not in"
        raise self._refusal(*allowed)

    def _take_word(self, word: str) -> bool:
        if self._next.kind == "word" and self._next.text.lower() == word:
            self._at += 1
            return True
        return False

    def _take_sign(self, sign: str) -> bool:
        if self._next.kind == "sign" and self._next.text == sign:
            self._at += 1
            return True
        return False

    def _expect(self, sign: str) -> None:
        if not self._take_sign(sign):
            raise self._refusal(sign)

    def _refusal(self, *expected: str) -> QueryError:
        found = self._next
        close = get_close_matches(found.text, [word.partition("(")[0] for word in expected], 1) if found.text else []
        hint = f" Did you mean {close[0]}?" if close else ""
        what = expected[0] if len(expected) == 1 else f"{', '.join(expected[:-1])} or {expected[-1]}"
        return QueryError(f"Expected {what}, found {found}.{hint}", found.position, expected)

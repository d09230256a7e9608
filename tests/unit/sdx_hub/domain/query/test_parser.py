"""What is a query, what it is in canonical form, and how a text that is none is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdx_hub.domain.query import Query, QueryError, caret, parse
from sdx_hub.domain.query.parser import MAX_DEPTH, MAX_TESTS, MAX_TEXT_CHARS, MAX_VALUES
from sdx_hub.domain.query.terms import Aged, Every, Like, Not, OneOf, Saved, Some, VersionIs
from sdx_hub.domain.query.tokens import MAX_QUERY_CHARS
from tests.support.queries import with_filters

ALPHA = OneOf("tag", ("alpha",))


@given(with_filters)
def test_the_canonical_text_means_the_same_tree(query: Query) -> None:
    assert parse(str(query)) == query
    assert str(parse(str(query))) == str(query)


@given(st.text(max_size=60))
def test_any_text_is_a_query_or_is_refused_at_a_place_in_it(text: str) -> None:
    try:
        assert parse(str(parse(text)))
    except QueryError as error:
        position = error.extra["position"]
        assert isinstance(position, int)
        assert 0 <= position <= len(text)
        assert caret(text, position).endswith("^")


@given(
    st.lists(
        st.sampled_from(
            [
                "tag",
                "=",
                "!=",
                "~",
                "in",
                "(",
                ")",
                ",",
                "and",
                "or",
                "not",
                "version",
                "filter",
                "seen",
                "<",
                "7d",
                '"a"',
                "x",
            ]
        ),
        max_size=12,
    ).map(" ".join)
)
def test_any_words_in_any_order_are_a_query_or_are_refused(text: str) -> None:
    try:
        query = parse(text)
    except QueryError:
        return
    assert parse(str(query)) == query


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (
            'hardware = "quad-x4" and tag in (alpha, beta) and not version("mavsdk") < "3.17" and seen < 7d '
            'and attribute.site = "north"',
            "hardware = quad-x4 and tag in (alpha, beta) and not version(mavsdk) < 3.17 and seen < 7d "
            "and attribute.site = north",
        ),
        ("tag=alpha OR tag=beta AND NOT state=pending", "tag = alpha or tag = beta and state != pending"),
        ("(tag = a or tag = b) and state = accepted", "(tag = a or tag = b) and state = accepted"),
        ("((tag = a))", "tag = a"),
        ("not not tag = a", "tag = a"),
        ("not (tag = a and tag = b)", "not (tag = a and tag = b)"),
        ("tag = a and (tag = b and tag = c)", "tag = a and tag = b and tag = c"),
        ("serial ~ 2024-*", 'serial ~ "2024-*"'),
        ("not serial ~ x*", 'serial !~ "x*"'),
        ("tag not in (a, b)", "tag not in (a, b)"),
        ("version(mavsdk) not in (3.1, 3.2)", "version(mavsdk) not in (3.1, 3.2)"),
        ("version(mavsdk) != 3.1", "version(mavsdk) != 3.1"),
        ("assigned = mavsdk@3.17.0", "assigned = mavsdk@3.17.0"),
        ("seen > 2w", "seen > 14d"),
        ("seen > 36h or enrolled <= 90m", "seen > 36h or enrolled <= 90m"),
        ("enrolled < 120s", "enrolled < 2m"),
        ("seen != never and not seen = never", "seen != never and seen != never"),
        ("attribute.rotor/kv = 900", "attribute.rotor/kv = 900"),
        ('attribute.note = "say \\"hi\\" \\\\ bye"', 'attribute.note = "say \\"hi\\" \\\\ bye"'),
        ('tag = "not"', 'tag = "not"'),
        ('serial = "a*"', 'serial = "a*"'),
        ("attribute.site = Zürich", "attribute.site = Zürich"),
        ("filter(spring)\n  and runs = mavsdk", "filter(spring) and runs = mavsdk"),
    ],
)
def test_canonical_texts(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("tag = alpha", ALPHA),
        ("tag != alpha", Not(ALPHA)),
        (
            "tag = alpha and id = d-1 or state = pending",
            Some((Every((ALPHA, OneOf("id", ("d-1",)))), OneOf("state", ("pending",)))),
        ),
        ("not tag = alpha and id = d-1", Every((Not(ALPHA), OneOf("id", ("d-1",))))),
        ("serial !~ x*", Not(Like("serial", "x*"))),
        ("version(mavsdk) >= 3.17", VersionIs("mavsdk", ">=", ("3.17",))),
        ("enrolled < 1d", Aged("enrolled", "<", 86_400)),
        ("filter(spring)", Saved("spring")),
    ],
)
def test_trees(text: str, tree: Query) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("", 0, "hardware"),
        ("hardwear = x", 0, "hardware"),
        ("tag", 3, "not in"),
        ("tag =", 5, "a value"),
        ("tag = a b", 8, "and"),
        ("tag = a and", 11, "hardware"),
        ("tag = and", 6, "a value"),
        ("tag in (a", 9, ")"),
        ("tag in ()", 8, "a value"),
        ("tag not = a", 8, "in"),
        ("(tag = a", 8, ")"),
        ("tag = a)", 7, "or"),
        ("tag < a", 4, "="),
        ("tag == a", 5, "a value"),
        ("state = acepted", 8, "accepted"),
        ("state ~ a*", 6, "="),
        ("seen < 7", 7, "a duration, for instance 90s, 15m, 12h, 7d, 2w"),
        ("seen = 7d", 7, "never"),
        ("enrolled = never", 9, "<"),
        ("version < 3", 8, "("),
        ("version(mavsdk) < ", 18, "a version"),
        ("filter()", 7, "the name of a filter"),
        ("tag = a*", 6, "~"),
        ('tag = "a', 6, '"'),
        ("tag = a & tag = b", 8, None),
        ("attribute. = x", 0, "attribute.NAME"),
        ("tag = a; drop table device", 7, None),
    ],
)
def test_a_refusal_says_where_and_what_was_expected(text: str, position: int, expected: str | None) -> None:
    with pytest.raises(QueryError) as refused:
        parse(text)
    assert refused.value.code == "query_invalid"
    assert refused.value.extra["position"] == position
    if expected is not None:
        assert expected in refused.value.extra["expected"]  # type: ignore[operator]
    assert len(str(refused.value)) < 300


def test_a_misspelt_word_gets_a_hint() -> None:
    with pytest.raises(QueryError, match=r"Did you mean hardware\?"):
        parse("hardwre = x")
    with pytest.raises(QueryError, match=r"Did you mean accepted\?"):
        parse("state = acepted")


@pytest.mark.parametrize(
    "text",
    [
        "x" * (MAX_QUERY_CHARS + 1),
        "(" * (MAX_DEPTH + 1) + "tag = a" + ")" * (MAX_DEPTH + 1),
        "not " * (MAX_DEPTH + 1) + "tag = a",
        "(" * 4_000,
        "not " * 1_000,
        " or ".join(["tag = a"] * (MAX_TESTS + 1)),
        f"tag in ({','.join(['a'] * (MAX_VALUES + 1))})",
        f'serial = "{"x" * (MAX_TEXT_CHARS + 1)}"',
        "seen < 3651d",
        "seen < 99999999999999999d",
        'serial = "a\0"',
        'serial = "a\nb"',
        'serial = "\ud800"',
        "serial = \ud800",
        "version(mavsdk) < '3'",
        "version(mavsdk) < ../..",
        "version(Mavsdk) < 3",
        'filter("a b")',
        f"attribute.{'x' * 65} = a",
    ],
    ids=range(19),
)
def test_bounds_are_kept(text: str) -> None:
    with pytest.raises(QueryError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * (MAX_DEPTH - 1) + "tag = a" + ")" * (MAX_DEPTH - 1),
        " or ".join(["tag = a"] * MAX_TESTS),
        f"tag in ({','.join(['a'] * MAX_VALUES)})",
        f'serial = "{"x" * MAX_TEXT_CHARS}"',
        "seen < 3650d",
    ],
    ids=range(5),
)
def test_what_is_within_the_bounds_is_a_query(text: str) -> None:
    assert parse(str(parse(text))) == parse(text)


def test_the_caret_stands_below_the_place() -> None:
    assert caret("tag = a b", 8) == "tag = a b\n        ^"
    long = "tag = a or " * 20 + "hardwear = x" + " or tag = b" * 20
    first, second = caret(long, 220).splitlines()
    assert first.startswith("...")
    assert first.endswith("...")
    assert first[second.index("^") :].startswith("hardwear")
    assert caret("tag\n= a b", 8) == "tag = a b\n        ^"

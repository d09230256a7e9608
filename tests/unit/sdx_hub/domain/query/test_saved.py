import pytest

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query import expand, names_in, parse, saved


def expanded(text: str, **filters: str) -> str:
    return str(expand(parse(text), {name: parse(query) for name, query in filters.items()}))


def test_filters_are_put_in_where_they_stand() -> None:
    assert expanded("filter(a) and runs = x", a="tag = a or tag = b") == "(tag = a or tag = b) and runs = x"
    assert expanded("not filter(a)", a="tag != a") == "tag = a"
    assert expanded("filter(a)", a="filter(b) and tag = a", b="tag = b") == "tag = b and tag = a"
    assert expanded("filter(a) or filter(a)", a="tag = a") == "tag = a or tag = a"


def test_the_names_in_a_query() -> None:
    assert names_in(parse("filter(a) and not (filter(b) or tag = c)")) == {"a", "b"}
    assert names_in(parse('tag = "filter(a)"')) == set()


@pytest.mark.parametrize(
    ("text", "filters", "code"),
    [
        ("filter(nobody)", {}, "filter_unknown"),
        ("filter(a)", {"a": "filter(nobody)"}, "filter_unknown"),
        ("filter(a)", {"a": "not filter(a)"}, "filter_circular"),
        ("filter(a)", {"a": "filter(b)", "b": "tag = x or filter(c)", "c": "filter(a)"}, "filter_circular"),
    ],
)
def test_what_cannot_be_put_in(text: str, filters: dict[str, str], code: str) -> None:
    with pytest.raises(BadInput) as refused:
        expanded(text, **filters)
    assert refused.value.code == code


def test_filters_of_filters_stay_within_bounds() -> None:
    """A few doubling filters would make a query of any size: a billion laughs."""
    filters = {f"f{number}": f"filter(f{number - 1}) and filter(f{number - 1})" for number in range(1, 30)}
    with pytest.raises(BadInput) as refused:
        expanded("filter(f29)", f0="tag = a", **filters)
    assert refused.value.code == "query_too_large"
    deep = {f"f{number}": f"not (filter(f{number - 1}) and tag = b)" for number in range(1, 30)}
    with pytest.raises(BadInput) as refused:
        expanded("filter(f29)", f0="tag = a", **deep)
    assert refused.value.code == "query_too_large"
    within = saved.MAX_EXPANDED_TESTS // 100
    assert expanded(" or ".join(["filter(a)"] * within), a=" or ".join(["tag = a"] * 100)).count("tag") == within * 100

"""Conditions and ranges, against what RFC 9110 says; the HTTP around them is tested in tests/integration."""

from hypothesis import given
from hypothesis import strategies as st

from sdx_hub.api.ranges import Selection, accepts, etag_of, matches, select

ETAG = '"abc"'


def test_a_tag_names_one_representation() -> None:
    assert etag_of("ab", "identity") == '"ab"'
    assert etag_of("ab", "zstd") == '"ab+zstd"'


@given(
    size=st.integers(0, 200),
    first=st.none() | st.integers(0, 250),
    last=st.none() | st.integers(0, 250),
)
def test_a_range_selects_what_python_slices(size: int, first: int | None, last: int | None) -> None:
    """The bytes are those that the standard's words describe, written down once more as slices."""
    content = bytes(index % 251 for index in range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    chosen = select(size, ETAG, range_=header)
    got = content[chosen.start : chosen.start + chosen.length]
    if first is None and last is None:
        assert chosen == Selection(200, 0, size)
    elif first is None:
        assert last is not None
        expected = content[max(size - last, 0) :] if last else b""
        assert (chosen.status, got) == ((206, expected) if expected else (416, b""))
    elif last is not None and last < first:
        assert chosen == Selection(200, 0, size)
    elif first >= size:
        assert chosen == Selection(416)
    else:
        expected = content[first:] if last is None else content[first : last + 1]
        assert (chosen.status, got) == (206, expected)


@given(st.text(max_size=40))
def test_no_header_breaks_it(text: str) -> None:
    chosen = select(100, ETAG, if_none_match=text, range_=text, if_range=text)
    assert 0 <= chosen.start <= chosen.start + chosen.length <= 100
    accepts(text, "zstd")


def test_the_order_of_conditions() -> None:
    assert select(9, ETAG, if_none_match=ETAG, range_="bytes=0-1", if_range='"other"').status == 304
    assert select(9, ETAG, if_none_match='"other"', range_="bytes=0-1", if_range=ETAG).status == 206
    assert select(9, ETAG, range_="bytes=0-1", if_range='W/"abc"').status == 200


def test_if_none_match_compares_weakly() -> None:
    assert matches('W/"abc"', ETAG)
    assert matches('"x" , "abc"', ETAG)
    assert matches("*", ETAG)
    assert not matches('"ab"', ETAG)
    assert not matches("abc", ETAG)


def test_accept_encoding() -> None:
    assert accepts("zstd", "zstd")
    assert accepts("gzip;q=1.0, ZSTD;q=0.5", "zstd")
    assert not accepts("zstd;q=0", "zstd")
    assert not accepts("zstd; q=0.000", "zstd")
    assert not accepts("zstd;q=many", "zstd")
    assert not accepts("zstdx, gzip", "zstd")
    assert not accepts("", "zstd")

"""Which bytes of a representation a request gets: RFC 9110, sections 13 (conditions) and 14 (ranges). Pure.

Order, as section 13.2.2 has it: If-None-Match, then Range under If-Range. Several ranges in one request are answered
whole, which a server is free to do, and which nobody's download tool minds.
"""

import re
from typing import Literal

from msgspec import Struct

_ONE_RANGE = re.compile(r"bytes=(?P<first>\d{1,18})?-(?P<last>\d{1,18})?", re.ASCII)


class Selection(Struct, frozen=True):
    """What to send.

    Attributes:
        start, length: Of the body; the length is 0 for 304 and 416.
    """

    status: Literal[200, 206, 304, 416]
    start: int = 0
    length: int = 0


def etag_of(sha256: str, encoding: str) -> str:
    """Strong: equal bytes of the same representation, and nothing else."""
    return f'"{sha256}"' if encoding == "identity" else f'"{sha256}+{encoding}"'


def matches(if_none_match: str, etag: str) -> bool:
    """Whether the client has this representation (weak comparison, section 8.8.3.2)."""
    known = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return "*" in known or etag in known


def accepts(accept_encoding: str, encoding: str) -> bool:
    """Whether `encoding` is named and not refused by `;q=0` (section 12.5.3)."""
    for part in accept_encoding.split(","):
        name, _, parameters = part.partition(";")
        if name.strip().lower() == encoding:
            quality = re.fullmatch(r"q=(\d(?:\.\d{0,3})?)", parameters.strip().lower() or "q=1")
            return quality is not None and float(quality[1]) > 0
    return False


def select(size: int, etag: str, *, if_none_match: str = "", range_: str = "", if_range: str = "") -> Selection:
    """Decide what a GET is answered with.

    Args:
        size: Bytes of the whole representation.
        etag: Of it, quoted.
        if_none_match: The header; empty where it is missing, as the other two.
        range_: The `Range` header; left empty for HEAD.
        if_range: The header.
    """
    if if_none_match and matches(if_none_match, etag):
        return Selection(304)
    found = _ONE_RANGE.fullmatch(range_.strip().lower()) if range_ else None
    # If-Range compares strongly: a date or another representation's tag means that the client's part is of no use.
    if found is None or (if_range and if_range.strip() != etag):
        return Selection(200, 0, size)
    first, last = found["first"], found["last"]
    if first is None and last is None:
        return Selection(200, 0, size)
    if first is None:
        count = min(int(last), size)
        return Selection(206, size - count, count) if count else Selection(416)
    start = int(first)
    if last is not None and int(last) < start:
        return Selection(200, 0, size)
    if start >= size:
        return Selection(416)
    end = size if last is None else min(int(last) + 1, size)
    return Selection(206, start, end - start)

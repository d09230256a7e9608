"""Lists in pages that stay right while the list grows: a page goes on after a row, never at a number."""

import base64
import binascii
from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from sdx_hub.domain.errors import BadInput

T = TypeVar("T")
K = TypeVar("K")


class Page(Struct, Generic[T], frozen=True):
    """One page.

    Attributes:
        items: At most as many as were asked for.
        following: Cursor of the next page; None on the last one.
    """

    items: list[T]
    following: str | None = None


def encode_cursor(key: object) -> str:
    """The cursor of the page that begins after the row with this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode_cursor(text: str, kind: type[K]) -> K:
    """The key in a cursor.

    Raises:
        BadInput: It is no cursor of such a list (code `invalid_cursor`).
    """
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=kind)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise BadInput("This is no cursor of this list: take it from the Link header.", "invalid_cursor") from None


def cut(rows: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """Split rows that were read with `limit + 1`: the page, and whether there are more."""
    return rows[:limit], len(rows) > limit

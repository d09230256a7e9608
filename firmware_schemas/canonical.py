"""The one canonical encoder: the bytes that get hashed and signed.

JSON with sorted keys, no spaces, UTF-8, and integers only (a float has more than one spelling, so it is refused).
TUF metadata has its own canonical form, made by python-tuf; this one is for our own documents.
"""

from typing import Any

import msgspec

from firmware_schemas.errors import SchemaError

_encoder = msgspec.json.Encoder(order="sorted")


def encode(document: Any) -> bytes:
    """Encode a struct, dict or list canonically.

    Raises:
        SchemaError: It holds a float, or something that JSON cannot hold.
    """
    try:
        plain = msgspec.to_builtins(document, order="sorted")
        _refuse_floats(plain)
        return _encoder.encode(plain)
    except TypeError as error:
        raise SchemaError(f"This document has no canonical form: {error}.") from error


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise SchemaError(f"The number {value!r} has no canonical form: use an integer in a smaller unit.")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_floats(item)

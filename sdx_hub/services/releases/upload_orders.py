"""What may be ordered to be uploaded, and how much may come."""

from firmware_schemas.limits import MAX_PAYLOAD_BYTES
from sdx_hub.adapters.blobs import ENCODINGS
from sdx_hub.domain.errors import BadInput, TooLarge

_SHA256_DIGITS = frozenset("0123456789abcdef")


def check_order(sha256: str, length: int, encoding: str, decoded_length: int) -> None:
    """Return if an upload of this kind may begin.

    Raises:
        BadInput: A value is malformed, or they contradict each other.
        TooLarge: The payload, or its compressed form, is larger than any may be (code `too_large`).
    """
    if len(sha256) != 64 or not set(sha256) <= _SHA256_DIGITS:
        raise BadInput("sha256 is 64 hexadecimal digits in lower case.", "invalid_sha256")
    if encoding not in ENCODINGS:
        raise BadInput(f"The encoding is one of {', '.join(ENCODINGS)}.", "invalid_encoding")
    if length < 0 or decoded_length < 0 or (encoding == "identity" and length != decoded_length):
        raise BadInput("The lengths contradict the encoding.", "invalid_length")
    if decoded_length > MAX_PAYLOAD_BYTES:
        raise TooLarge(f"A payload has at most {MAX_PAYLOAD_BYTES} bytes, uncompressed.", "too_large")
    # RFC 8878 allows more (empty blocks without end); no encoder needs it. zstd's own bound is 1/256 and 64 bytes.
    if length > decoded_length + decoded_length // 128 + 1024:
        raise TooLarge("The compressed form is far larger than the payload: compress it again.", "too_large")


def refuse_surplus(length: int, end: int) -> None:
    """Return if an upload that ends at `end` is within the `length` that was announced.

    Raises:
        TooLarge: It is not (code `too_large`).
    """
    if end > length:
        raise TooLarge(f"More than the {length} bytes that were announced for this upload; begin again.", "too_large")

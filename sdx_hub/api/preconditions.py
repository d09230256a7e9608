"""`ETag` and `If-Match`: nobody replaces what somebody else has changed in the meantime (RFC 9110, section 13)."""

import hashlib
from typing import Any

from litestar.datastructures import ResponseHeader

from firmware_schemas import canonical
from sdx_hub.domain.errors import ConflictError

ETAG = ResponseHeader("etag", description="Of what is there now, for `If-Match`.", documentation_only=True)
"""For a handler's `response_headers`."""


class PreconditionFailed(ConflictError):
    """The resource is not what the caller saw."""

    status = 412
    default_code = "precondition_failed"


def etag(document: Any) -> str:
    """A strong tag of a JSON resource."""
    return f'"{hashlib.sha256(canonical.encode(document)).hexdigest()[:32]}"'


def require_match(if_match: str | None, current: Any) -> None:
    """Return if the caller saw `current`, or does not care.

    Raises:
        PreconditionFailed: Somebody changed it since (member `etag`).
    """
    if if_match is None or if_match.strip() == "*":
        return
    now = etag(current)
    if now not in [part.strip() for part in if_match.split(",")]:
        raise PreconditionFailed(
            "This was changed since you looked at it; nothing was replaced. Read it again.", etag=now
        )

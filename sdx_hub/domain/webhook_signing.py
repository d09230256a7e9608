"""What makes a message of the hub's believable to its receiver: Standard Webhooks 1.0.0, the symmetric scheme.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, "Signature scheme".
"""

import base64
import hashlib
import hmac
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with
SECRET_BYTES: Final = 32
"""The specification asks for 24 to 64."""


def shown_secret(stored: str) -> str:
    """A secret as its owner gets it, once; `stored` is its base64."""
    return SECRET_PREFIX + stored


def headers(stored: str, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt.

    Args:
        stored: The secret, base64.
        message_id: The same at each attempt; without full stops, which part what is signed.
        timestamp_s: Of this attempt, in seconds since 1970.
        body: The exact bytes that are sent.
    """
    signed = b".".join((message_id.encode(), str(timestamp_s).encode(), body))
    digest = hmac.new(base64.b64decode(stored), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp_s),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }

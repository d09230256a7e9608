"""The audit log as a chain of hashes: an entry that is changed, removed or slipped in breaks every later link.

The form is fixed, so that anybody can verify an exported log without this program:
`hash = SHA-256(canonical JSON of {seq, time, actor, action, subject, detail, prev_hash})`.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any

from firmware_schemas import canonical

GENESIS = "0" * 64
"""What the first entry holds in place of an earlier hash."""


def link(
    *, seq: int, time: datetime, actor: str, action: str, subject: str, detail: dict[str, Any], prev_hash: str
) -> str:
    """Return the hash of one entry, as 64 hexadecimal digits.

    The time is hashed as ISO 8601 in UTC with microseconds; `detail` is JSON-ready, without floats.
    """
    document = {
        "seq": seq,
        "time": time.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": detail,
        "prev_hash": prev_hash,
    }
    return hashlib.sha256(canonical.encode(document)).hexdigest()

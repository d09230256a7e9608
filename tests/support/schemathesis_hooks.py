"""Loaded by schemathesis: it may revoke every token and every device but those that it works with.

And a stream of events must end: schemathesis reads an answer to its end before it looks at it. So streams are asked for
what has happened, in every way that it thinks of, and never for what will happen.
"""

import os
from typing import Any

import schemathesis

_TRUE = frozenset({"true", "1", "yes", "on", "y", "t"})
_KEEP = frozenset(os.environ["KEEP"].split())


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Whether to send this."""
    return not (case.path.endswith("/revoke") and _KEEP.intersection((case.path_parameters or {}).values()))


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Have a stream end by itself; a malformed `follow` is refused and may stay as it is."""
    if case.path == "/api/v1/events":
        case.query = dict(case.query or {})
        if str(case.query.get("follow", "true")).lower() in _TRUE:
            case.query["follow"] = "false"

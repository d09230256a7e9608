"""Loaded by schemathesis: it may revoke every token and every device but those that it works with."""

import os
from typing import Any

import schemathesis

_KEEP = frozenset(os.environ["KEEP"].split())


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """Whether to send this."""
    return not (case.path.endswith("/revoke") and _KEEP.intersection((case.path_parameters or {}).values()))

"""Waiting for something to come true, on a slow machine as well."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], limit_s: float = 120.0, every_s: float = 0.02) -> None:
    """Wait for it.

    Raises:
        AssertionError: It did not come true in time.
    """
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s"
        time.sleep(every_s)

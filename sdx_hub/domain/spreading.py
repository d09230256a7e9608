"""When to come again: a fleet that is sent away in one moment must not come back in one."""

import random
from collections.abc import Callable


def spread_s(interval_s: int, uniform: Callable[[float, float], float] = random.uniform) -> int:
    """Whole seconds for a Retry-After header: one to two poll intervals.

    Never sooner than a poll would come anyway, so that refusing devices makes less work and not more.

    Args:
        interval_s: What devices are told in good times.
        uniform: Random source.
    """
    return round(uniform(interval_s, 2 * interval_s))

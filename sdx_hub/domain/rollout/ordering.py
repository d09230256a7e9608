"""In which order devices come: by kind in turn, and within a kind by chance that can be computed again.

Every beginning of the order holds each kind of device in its share, to within one device: so the first wave, whatever
its size, tells as much about the fleet as so many devices can.
"""

import hashlib
from array import array
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Final

from sdx_hub.domain.rollout.policy import Order

PRIME: Final = 2**31 - 1
"""Products of two smaller numbers fit into 63 bits. 5 does not divide PRIME - 1, so that x**5 meets each x once."""


def seed_of(order: Order) -> int:
    """The seed of a rollout: by what is ordered alone, so that the plan names the devices that a start then takes."""
    named = f"{order.release}\n{order.query}".encode()
    return int.from_bytes(hashlib.sha256(named).digest()[:6])


def place(number: Any, seed: int) -> Any:
    """Where a device stands among those of its kind: a permutation of 0 to PRIME - 1 that the seed chooses.

    Nothing but `+`, `*` and `%` of numbers below 2**63: what holds for an int here holds for a column of a database.

    Args:
        number: Of the device, below PRIME; an int, or a column.
        seed: Not negative.
    """
    scale, shift = 1 + seed % (PRIME - 1), seed // (PRIME - 1) % PRIME
    mixed = (number * scale + shift) % PRIME
    squared = mixed * mixed % PRIME
    fifth = squared * squared % PRIME * mixed % PRIME
    return fifth * (1 + scale * 48_271 % (PRIME - 1)) % PRIME


def interleave(strata: "Sequence[array[int]]") -> "array[int]":
    """Merge the strata into one order, each spread evenly over the whole.

    Earliest deadline first over the windows of Pfair scheduling (Baruah, Cohen, Plaxton, Varvel 1996): of N devices,
    the j-th of a stratum of n may come from place floor((j - 1) * N / n) on and has come by place ceil(j * N / n). The
    windows' weights add up to 1, so that none is missed; then each beginning of k devices holds more than n * k / N - 1
    and fewer than n * k / N + 1 of the stratum.

    Args:
        strata: Numbers of devices, each stratum in its own order.
    """
    total = sum(map(len, strata))
    merged, taken = array("q"), [0] * len(strata)
    # (deadline, stratum) of those that may come now; (release, deadline, stratum) of those that come later.
    ready = [(-(-total // len(each)), stratum) for stratum, each in enumerate(strata) if each]
    later: list[tuple[int, int, int]] = []
    heapify(ready)
    for now in range(total):
        while later and later[0][0] <= now:
            _, deadline, stratum = heappop(later)
            heappush(ready, (deadline, stratum))
        _, stratum = heappop(ready)
        own, following = strata[stratum], taken[stratum] + 1
        merged.append(own[following - 1])
        taken[stratum] = following
        if following < len(own):
            release = following * total // len(own)
            heappush(later, (release, -(-(following + 1) * total // len(own)), stratum))
    return merged

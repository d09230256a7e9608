"""What servers need while something runs: CPU seconds, and the largest memory that was seen."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.processes import cpu_s, memory_kib, proportional_kib, tree

_EVERY_S = 5.0
"""To look costs the process that is looked at some milliseconds."""


@dataclass
class Watch:
    """The figures of one stretch of time; complete when it is over.

    Attributes:
        cpu_s: By server, of all its processes.
        pss_mib, rss_mib: The largest sums over all servers together, of a look every few seconds. PSS counts a page
            that processes share once, RSS each time.
        seconds: So long it took.
    """

    cpu_s: list[float] = field(default_factory=list)
    pss_mib: float = 0.0
    rss_mib: float = 0.0
    seconds: float = 0.0


@contextmanager
def watching(measured: Sequence[int], *also: int) -> Iterator[Watch]:
    """Watch some servers.

    Args:
        measured: Main processes of the servers whose memory counts.
        also: Main processes of more servers, whose CPU seconds are wanted alone.
    """
    watch, over = Watch(), threading.Event()
    roots = (*measured, *also)

    def look() -> None:
        while True:
            pss, rss = memory_mib(measured)
            watch.pss_mib, watch.rss_mib = max(watch.pss_mib, pss), max(watch.rss_mib, rss)
            if over.wait(_EVERY_S):
                return

    before = [cpu_s(root) for root in roots]
    began = time.monotonic()
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()
    watch.seconds = time.monotonic() - began
    watch.cpu_s = [cpu_s(root) - then for root, then in zip(roots, before, strict=True)]


def memory_mib(roots: Sequence[int]) -> tuple[float, float]:
    """PSS and RSS of these servers, with all their processes, together."""
    pids = [pid for root in roots for pid in tree(root)]
    return sum(map(proportional_kib, pids)) / 1024, sum(memory_kib(pid, "VmRSS") for pid in pids) / 1024

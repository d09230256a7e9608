"""The peak memory of every process in a tree and of the tree as a whole, while it lives and after it has ended."""

import threading
import time
from pathlib import Path
from typing import Self

from bench.processes import memory_kib, proportional_kib, tree

_EVERY_S = 0.02
_TOGETHER_EVERY = 10
"""Looks from one sum to the next: the kernel walks all pages for it."""


class PeakMemory:
    """`with PeakMemory(pid) as peaks:` looks at VmHWM again and again.

    VmHWM only grows, so what can be missed is what a process adds in its last two hundredths of a second. (ru_maxrss
    would miss nothing, but a child inherits the peak of the process that it was forked from.)

    Attributes:
        mib: By process: the command line's last known form, and the peak in MiB.
        together_mib: Peak of the sum of proportional set sizes: forked processes share pages, counted once here.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.mib: dict[int, tuple[str, float]] = {}
        self.together_mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    @property
    def of_root(self) -> float:
        return self.mib[self.root][1]

    @property
    def of_children(self) -> float:
        """The largest of the others; 0.0 where there was none."""
        return max((peak for pid, (_name, peak) in self.mib.items() if pid != self.root), default=0.0)

    def look(self) -> None:
        for pid in tree(self.root):
            peak = memory_kib(pid, "VmHWM") / 1024
            if peak:
                _name, before = self.mib.get(pid, ("", 0.0))
                self.mib[pid] = (_command(pid), max(before, peak))

    def look_together(self) -> None:
        self.together_mib = max(self.together_mib, sum(proportional_kib(pid) for pid in tree(self.root)) / 1024)

    def _look_on(self) -> None:
        looks = 0
        while not self._over.is_set():
            self.look()
            if looks % _TOGETHER_EVERY == 0:
                self.look_together()
            looks += 1
            time.sleep(_EVERY_S)

    def __enter__(self) -> Self:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[-120:]
    except OSError:
        return ""

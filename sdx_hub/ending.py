"""The moment in which a process is told to end: what would go on for ever must end by itself then.

A server waits for the answers that are under way before it stops the services, and an open stream is such an answer.
"""

from collections.abc import Callable


class Ending:
    """Of one process.

    Attributes:
        begun: It was told.
    """

    def __init__(self) -> None:
        self.begun = False
        self._callbacks: list[Callable[[], None]] = []

    def on(self, callback: Callable[[], None]) -> None:
        """Call this when it begins; at once where it has begun."""
        self._callbacks.append(callback)
        if self.begun:
            callback()

    def begin(self) -> None:
        """The process was told to end."""
        if self.begun:
            return
        self.begun = True
        for callback in self._callbacks:
            callback()

"""A rollout as it changes: asked for again and again, through broken links and restarts of the hub."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from sdx_hub.cli.console import Console
from sdx_hub.domain.errors import ConflictError, HubError, Unavailable
from sdx_hub.publishing.hub_client import HubClient, segment

EVERY_S = 1.0
_LONGEST_S = 15.0
_UNCHANGED = "http_304"


class Watching:
    """Asks for one rollout.

    Args:
        hub: Where it is.
        rollout: `ro-3`.
        console: Hears of a hub that does not answer.
        timeout_s: When to give up; 0 means never.
        sleep, clock: For tests.
    """

    def __init__(
        self,
        hub: HubClient,
        rollout: str,
        console: Console,
        timeout_s: float = 0,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._path = f"/api/v1/rollouts/{segment(rollout)}"
        self._console = console
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._clock = clock
        self._since = clock()
        self._failures = 0
        self._etag = ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rollout whenever it is another one than before; without an end.

        Raises:
            ConflictError: The time is up (code `watch_timeout`).
            HubError: The hub refuses to show it.
        """
        while True:
            found = self._look()
            if found is not None:
                yield found
            wait = min(EVERY_S * 2**self._failures, _LONGEST_S)
            if self._timeout_s and self._clock() + wait - self._since > self._timeout_s:
                raise ConflictError(
                    "The time is up, and it goes on without being watched: sdx rollout watch shows it again.",
                    "watch_timeout",
                )
            self._sleep(wait)

    def _look(self) -> dict[str, Any] | None:
        headers = {"if-none-match": self._etag} if self._etag else {}
        try:
            response: httpx.Response = self._hub.request("GET", self._path, headers=headers)
        except HubError as error:
            if error.code == _UNCHANGED:
                self._failures = 0
                return None
            if not _passes(error):
                raise
            if not self._failures:
                self._console.warn(f"{error} It is asked again.")
            self._failures = min(self._failures + 1, 8)
            return None
        self._failures = 0
        self._etag = response.headers.get("etag", "")
        document: dict[str, Any] = response.json()
        return document


def _passes(error: HubError) -> bool:
    """Whether it may be over soon: the hub is away or starts, or the proxy before it says so."""
    return isinstance(error, Unavailable) or error.code.startswith("http_5")

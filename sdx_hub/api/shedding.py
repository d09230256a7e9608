"""Load that cannot be carried is refused early, with 503 and a time to come again, so that the rest is served well.

Two measures, because polls and everything else wait in different places. Polls wait for the event loop: while it is
late, they are sent away. Everything else waits in the hub, for the database above all: so many may be at work at once,
and no more are begun. `/livez`, `/readyz` and `/metrics` are always answered: whoever looks after the hub must see it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from sdx_hub.api.problems import MEDIA_TYPE, RETRY_AFTER_S, encoded
from sdx_hub.domain.spreading import spread_s

EVENT_STREAM: Final = b"text/event-stream"
ALWAYS: Final = frozenset({"/livez", "/readyz", "/metrics"})
OVERLOADED: Final = encoded(503, "overloaded", "The hub has more to do than it can. Come again after a while.")
_PEOPLE: Final = "/api/"
"""People and their tools wait for seconds, a fleet of devices for an interval."""


class LoopLag:
    """How late the event loop comes to what is due.

    Args:
        bound_s: Beyond it, it is late.

    Attributes:
        lag_s: At the last measurement.
        late: It was more than the bound twice in a row: one long step, or a pause of the process, is no overload.
    """

    EVERY_S: Final = 0.1

    def __init__(self, bound_s: float = 0.5) -> None:
        self._bound_s = bound_s
        self.lag_s = 0.0
        self.late = False

    async def measure(self) -> None:
        """Wait for a moment, and see how much longer it took."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self.EVERY_S
        await asyncio.sleep(self.EVERY_S)
        before_s, self.lag_s = self.lag_s, loop.time() - due_s
        self.late = min(before_s, self.lag_s) > self._bound_s


class Shedding:
    """A layer around everything that Litestar answers.

    A request is at work except while the hub waits for its client's bytes or for the client to take ours: a slow
    upload, or a payload that crawls over a weak link, keeps nobody out. Nor is a stream of events at work once it has
    begun: it waits for what will happen, and streams have a limit of their own.

    Args:
        app: Litestar.
        most: Requests at work at once.
        interval_s: Of polls; devices that are sent away come back within one to two of them.

    Attributes:
        at_work: Requests now.
        shed: Requests that were sent away, since the start.
    """

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]], most: int, interval_s: int) -> None:
        self._app = app
        self._most = most
        self._interval_s = interval_s
        self.at_work = 0
        self.shed = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self._app(scope, receive, send)
            return
        if self.at_work >= self._most:
            self.shed += 1
            await self._send_away(scope["path"], send)
            return

        counts = True

        async def receiving() -> Any:
            if not counts:
                return await receive()
            self.at_work -= 1
            try:
                return await receive()
            finally:
                self.at_work += 1

        async def sending(message: Any) -> None:
            nonlocal counts
            if counts and begins_stream(message):
                counts = False
                self.at_work -= 1
            if not counts:
                await send(message)
                return
            self.at_work -= 1
            try:
                await send(message)
            finally:
                self.at_work += 1

        self.at_work += 1
        try:
            await self._app(scope, receiving, sending)
        finally:
            self.at_work -= counts

    async def _send_away(self, path: str, send: Any) -> None:
        wait_s = RETRY_AFTER_S if path.startswith(_PEOPLE) else spread_s(self._interval_s)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", b"%d" % len(OVERLOADED)),
            (b"retry-after", b"%d" % wait_s),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": OVERLOADED})


def begins_stream(message: Any) -> bool:
    """Whether this begins an answer that goes on for as long as its client likes."""
    return message["type"] == "http.response.start" and any(
        name == b"content-type" and value == EVENT_STREAM for name, value in message.get("headers", ())
    )

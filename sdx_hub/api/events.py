"""`/events`: what happens, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
from contextlib import aclosing
from typing import Annotated, Final

import msgspec
import structlog
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from sdx_hub.api.hub import Hub
from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import HubError
from sdx_hub.domain.event_types import MAX_PATTERN_CHARS, MAX_PATTERNS, check_patterns
from sdx_hub.services.events.feed import Batch, Wanted
from sdx_hub.services.events.following import follow

MEDIA_TYPE: Final = "text/event-stream"
RETRY_MS: Final = 3_000
SEND_S: Final = 30.0
"""A client that does not take what it is sent for so long is dropped; it can go on where it was."""
_HEADERS: Final = [
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # For nginx: pass each event on at once.
]
_log = structlog.get_logger(__name__)

Subject = Annotated[str, QueryParameter(max_length=128, description="Only what happens to this: `ro-12`.")]
Types = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=MAX_PATTERN_CHARS)]] | None,
    QueryParameter(name="type", max_items=MAX_PATTERNS, description="`rollout.halted`, or `rollout.*`; repeatable."),
]
"""A parameter cannot be named `type`: it would hide Python's."""
LastEventId = Annotated[
    int | None,
    HeaderParameter(
        name="last-event-id", ge=0, le=2**63 - 1, description="Go on after this one; 0 begins with the first there is."
    ),
]
Live = Annotated[bool, QueryParameter(description="Show `rollout.progress` as well: not stored, and without an id.")]
Follow = Annotated[
    bool, QueryParameter(name="follow", description="Go on with what will happen; else end with what has happened.")
]
STREAM = {200: ResponseSpec(str, generate_examples=False, media_type=MEDIA_TYPE, description="Events, as they happen.")}


class EventStream:
    """Status and headers, then events for as long as the client takes them.

    Litestar's `ServerSentEvent` does not bound how long a client may take, and nothing could be told to it that has an
    id and no data.

    Args:
        hub: Where events come from.
        principal: Who asks.
        wanted: What is shown.
        last: The client's last event; None for none.
        live: Show how rollouts go on.
        on: Go on with what will happen.
    """

    def __init__(
        self, hub: Hub, principal: Principal, wanted: Wanted, last: int | None, *, live: bool, on: bool
    ) -> None:
        self._hub = hub
        self._principal = principal
        self._wanted = wanted
        self._last = last
        self._live = live
        self._on = on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hub.events.place(self._principal):
            after = await self._hub.events.begin(self._last)
            tasks = [asyncio.create_task(self._send_all(send, after)), asyncio.create_task(_leaves(receive))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in done:
                task.result()

    async def _send_all(self, send: Send, after: int) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        try:
            # An id without data is remembered by the client and shown to nobody: it can go on from here in any case.
            await _send(send, f"retry: {RETRY_MS}\nid: {after}\n\n".encode())
            feed, progress = self._hub.events, self._hub.progress
            following = follow(feed, progress, self._wanted, after, live=self._live, on=self._on)
            async with aclosing(following) as batches:
                async for batch in batches:
                    await _send(send, encode(batch))
        except TimeoutError:
            _log.info("event_stream_dropped", reason="the client does not read")
            return
        except HubError as error:
            _log.warning("event_stream_broken", code=error.code)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def encode(batch: Batch) -> bytes:
    """A batch as it is sent: its events, or a comment that keeps the connection alive."""
    if not batch.events:
        return f": nothing new\nid: {batch.through}\n\n".encode()
    return b"".join(
        (f"id: {event.id}\n" if event.id else "").encode()
        + f"event: {event.type}\ndata: ".encode()
        + msgspec.json.encode(event)
        + b"\n\n"
        for event in batch.events
    )


async def _send(send: Send, piece: bytes) -> None:
    async with asyncio.timeout(SEND_S):
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@get("/", summary="What happens, as a stream of server-sent events", responses=STREAM)
async def events(
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    subject: Subject = "",
    kinds: Types = None,
    last_event_id: LastEventId = None,
    live: Live = False,
    follow_on: Follow = True,
) -> ASGIApp:
    wanted = Wanted(subject, check_patterns(kinds or ()))
    return EventStream(hub, principal, wanted, last_event_id, live=live, on=follow_on)


router = Router("/events", route_handlers=[events], tags=["events"])

"""One stream of events, from an id on."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from sdx_hub.services.events.feed import Batch, EventFeed, Wanted
from sdx_hub.services.events.progress import Progress

KEEP_ALIVE_S: Final = 15.0
"""So long may a stream say nothing: proxies and clients take a longer silence for a lost connection."""
LIFE_S: Final = 900.0
"""A stream ends after this, and its client comes again: so long may one last whose token was revoked meanwhile."""


async def follow(
    feed: EventFeed, progress: Progress, wanted: Wanted, after: int, *, live: bool, on: bool
) -> AsyncGenerator[Batch, None]:
    """Batches of events, as they happen.

    Args:
        feed: Of this worker.
        progress: Of this worker.
        wanted: What is shown.
        after: The id after which it begins.
        live: Show how rollouts go on as well; such events have the id 0.
        on: Go on with what will happen; else it ends with what has happened.

    Yields:
        Also empty ones: nothing happened for `KEEP_ALIVE_S`, or nothing that is wanted.
    """
    now_s = asyncio.get_running_loop().time
    ends_s, seen = now_s() + LIFE_S, 0
    speaks_s = now_s() + KEEP_ALIVE_S
    progress.listeners += live
    try:
        while not feed.closed and now_s() < ends_s:
            batch = await feed.since(after, wanted)
            after = batch.through
            told = progress.newer(seen, wanted) if live else []
            seen = progress.version
            if batch.events or told or now_s() >= speaks_s:
                yield Batch([*batch.events, *told], after, batch.more)
                speaks_s = now_s() + KEEP_ALIVE_S
            if batch.more:
                continue
            if not on:
                return
            await feed.news(after, speaks_s - now_s())
    finally:
        progress.listeners -= live

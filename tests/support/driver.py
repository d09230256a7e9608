"""The database driver's threads."""

import asyncio
import threading

_NAME = "_connection_worker"


async def driver_has_ended() -> None:
    """Wait for the threads of connections that could not be opened: they say goodbye to this test's event loop."""
    for thread in threading.enumerate():
        if _NAME in thread.name:
            await asyncio.to_thread(thread.join, 10)

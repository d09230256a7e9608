"""Whether the object store takes this hub, before the hub is served.

In a process of its own: the client of object stores has threads, which do not survive the fork that makes workers.
"""

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from sdx_hub.adapters.object_store import is_object_store
from sdx_hub.cli.hub_work import storage_of
from sdx_hub.settings import Settings


def refuse_unfit_storage(settings: Settings) -> None:
    """Return if payloads can be stored; a store that is away may come back, and is only warned of.

    Raises:
        BadInput: See `sdx_hub.adapters.object_store.check`.
    """
    if is_object_store(settings.blobs):
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as alone:
            alone.submit(_check, settings).result()


def _check(settings: Settings) -> None:
    asyncio.run(storage_of(settings))

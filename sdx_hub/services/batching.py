"""Requests that come at the same time share one answer from the database.

While one batch is at work, whoever asks is gathered for the next one. So a question is never answered with what was
read before it was asked, and a thousand devices that ask at once cost a handful of transactions.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Serve = Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]]


class Batcher(Generic[K, V]):
    """Gathers keys.

    Args:
        serve: Answers a batch: for each key a value, or the exception that its asker gets. What it raises itself,
            all of them get.
        max_keys: In one batch.
    """

    def __init__(self, serve: Serve[K, V], max_keys: int) -> None:
        self._serve = serve
        self._max_keys = max_keys
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._worker: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Keys that wait for the next batch."""
        return len(self._waiting)

    async def ask(self, key: K) -> V:
        """The value of one key."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
            future.add_done_callback(_retrieve)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name="batcher")
        # One asker that leaves must not take the answer away from the others.
        return await asyncio.shield(future)

    async def _work(self) -> None:
        while self._waiting:
            keys = list(self._waiting)[: self._max_keys]
            batch = {key: self._waiting.pop(key) for key in keys}
            try:
                answers = await self._serve(keys)
            except Exception as error:
                answers = dict.fromkeys(keys, error)
            except BaseException:
                for future in batch.values():
                    future.cancel()
                raise
            for key, future in batch.items():
                answer = answers[key]
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


def _retrieve(future: "asyncio.Future[V]") -> None:
    """Look at the exception, so that one whose askers have all left is not logged as forgotten."""
    if not future.cancelled():
        future.exception()

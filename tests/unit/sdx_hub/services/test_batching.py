"""Askers at the same time share an answer, and nobody gets one that is older than the question."""

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from sdx_hub.services.batching import Batcher


class Source:
    """Counts its calls; holds each until it is let go."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.value = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, keys: Sequence[str]) -> Mapping[str, int | Exception]:
        self.calls.append(list(keys))
        read = self.value
        await self.gate.wait()
        if "all" in keys:
            raise RuntimeError("away")
        return {key: LookupError(key) if key.startswith("no") else read for key in keys}


async def test_askers_share_a_call() -> None:
    source = Source()
    batcher = Batcher(source.serve, 10)
    assert await asyncio.gather(*(batcher.ask(key) for key in ("a", "b", "a", "c"))) == [0, 0, 0, 0]
    assert source.calls == [["a", "b", "c"]]


async def test_a_batch_has_a_limit() -> None:
    source = Source()
    batcher = Batcher(source.serve, 2)
    await asyncio.gather(*(batcher.ask(key) for key in "abcde"))
    assert source.calls == [["a", "b"], ["c", "d"], ["e"]]


async def test_nobody_gets_what_was_read_before_the_question() -> None:
    source = Source()
    batcher = Batcher(source.serve, 10)
    source.gate.clear()
    early = asyncio.create_task(batcher.ask("a"))
    await asyncio.sleep(0.01)
    source.value = 1
    late = asyncio.create_task(batcher.ask("a"))
    await asyncio.sleep(0.01)
    source.gate.set()
    assert await early == 0
    assert await late == 1


async def test_each_gets_its_own_refusal_and_all_get_a_failure() -> None:
    source = Source()
    batcher = Batcher(source.serve, 10)
    answers = await asyncio.gather(batcher.ask("a"), batcher.ask("no-b"), return_exceptions=True)
    assert answers[0] == 0
    assert isinstance(answers[1], LookupError)
    failed = await asyncio.gather(batcher.ask("a"), batcher.ask("all"), return_exceptions=True)
    assert [str(error) for error in failed] == ["away", "away"]
    assert await batcher.ask("a") == 0


async def test_an_asker_that_leaves_takes_nothing_away() -> None:
    source = Source()
    batcher = Batcher(source.serve, 10)
    source.gate.clear()
    leaves, stays = asyncio.create_task(batcher.ask("a")), asyncio.create_task(batcher.ask("a"))
    await asyncio.sleep(0.01)
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    source.gate.set()
    assert await stays == 0

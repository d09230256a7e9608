"""Who is sent away when there is too much to do, and who is not."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from sdx_hub.api.shedding import LoopLag, Shedding

INTERVAL_S = 60


class Hub:
    """An application that works until it is told that it is done, and a client on the other side."""

    def __init__(self, most: int) -> None:
        self.done = asyncio.Event()
        self.bytes_come = asyncio.Event()
        self.bytes_go = asyncio.Event()
        self.layer = Shedding(self._work, most, INTERVAL_S)
        self.began = 0

    async def _work(self, scope: Any, receive: Any, send: Any) -> None:
        self.began += 1
        match scope["path"]:
            case "/upload":
                await receive()
            case "/download":
                await send({"type": "http.response.start", "status": 200, "headers": []})
            case "/fails":
                raise OSError
            case _:
                await self.done.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def ask(self, path: str) -> "asyncio.Task[tuple[int, dict[bytes, bytes], bytes]]":
        return asyncio.create_task(self._ask(path))

    async def _ask(self, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[Any] = []

        async def receive() -> Any:
            await self.bytes_come.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if path == "/download":
                await self.bytes_go.wait()
            sent.append(message)

        await self.layer({"type": "http", "path": path}, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[-1].get("body", b"")


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("path", ["/device/v1/reports", "/api/v1/devices"])
async def test_more_than_the_most_is_sent_away_and_what_is_at_work_is_not_touched(path: str) -> None:
    hub = Hub(most=2)
    working = [hub.ask(path) for _ in range(2)]
    await turn()
    status, headers, body = await hub.ask(path)
    assert (status, msgspec.json.decode(body)["code"]) == (503, "overloaded")
    assert headers[b"content-type"] == b"application/problem+json"
    assert int(headers[b"content-length"]) == len(body)
    assert (hub.began, hub.layer.at_work, hub.layer.shed) == (2, 2, 1)
    hub.done.set()
    assert [(await task)[0] for task in working] == [200, 200]
    assert hub.layer.at_work == 0
    assert (await hub.ask(path))[0] == 200


async def test_devices_come_back_spread_over_an_interval_and_people_soon() -> None:
    hub = Hub(most=0)
    waits = [int((await hub.ask("/tuf/image/timestamp.json"))[1][b"retry-after"]) for _ in range(50)]
    assert min(waits) >= INTERVAL_S
    assert max(waits) <= 2 * INTERVAL_S
    assert len(set(waits)) > 5
    assert int((await hub.ask("/api/v1/releases"))[1][b"retry-after"]) < 10


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_whoever_looks_after_the_hub_is_always_answered(path: str) -> None:
    hub = Hub(most=0)
    hub.done.set()
    assert (await hub.ask(path))[0] == 200


async def test_waiting_for_a_clients_bytes_keeps_nobody_out() -> None:
    hub = Hub(most=1)
    slow = [hub.ask(path) for path in ("/upload", "/download") * 10]
    await turn()
    assert hub.began == 20
    assert hub.layer.at_work == 0
    hub.done.set()
    assert (await hub.ask("/api/v1/releases"))[0] == 200
    hub.bytes_come.set()
    hub.bytes_go.set()
    assert {(await task)[0] for task in slow} == {200}
    assert hub.layer.at_work == 0


async def test_a_request_that_fails_or_is_cancelled_is_not_at_work_any_more() -> None:
    hub = Hub(most=1)
    with pytest.raises(OSError):
        await hub.ask("/fails")
    cancelled = hub.ask("/upload")
    await turn()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert hub.layer.at_work == 0
    hub.done.set()
    assert (await hub.ask("/api/v1/releases"))[0] == 200


async def test_a_loop_is_late_only_while_it_stays_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoopLag, "EVERY_S", 0.01)
    lag = LoopLag(bound_s=0.05)

    async def measured(stall_s: float) -> bool:
        measuring = asyncio.create_task(lag.measure())
        await asyncio.sleep(0)
        time.sleep(stall_s)
        await measuring
        return lag.late

    assert not await measured(0.1), "one long step is no overload"
    assert await measured(0.1)
    assert lag.lag_s > 0.05
    lag = LoopLag(bound_s=30)
    assert not await measured(0.1)

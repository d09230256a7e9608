"""What goes over the line of a stream, and what becomes of clients that read too slowly or leave."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sdx_hub.api import events as api
from sdx_hub.api.edge import Edge
from sdx_hub.api.events import EventStream, encode
from sdx_hub.api.series import SECONDS
from sdx_hub.api.shedding import Shedding
from sdx_hub.domain.access import Principal, Role
from sdx_hub.domain.errors import Unavailable
from sdx_hub.services.events.feed import Batch, Event, EventFeed, Wanted

TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)
HALTED = Event(42, TIME, "rollout.halted", "ro-12", msgspec.Raw(b'{"sentence":"Stop."}'))
PROGRESS = Event(0, TIME, "rollout.progress", "ro-12", msgspec.Raw(b"{}"))
VIEWER = Principal("vera", Role.VIEWER)


def test_an_event_is_sent_with_its_id_and_what_is_not_stored_without_one() -> None:
    assert encode(Batch([HALTED, PROGRESS], 42)) == (
        b"id: 42\nevent: rollout.halted\n"
        b'data: {"id":42,"time":"2026-03-01T12:00:00Z","type":"rollout.halted","subject":"ro-12",'
        b'"data":{"sentence":"Stop."}}\n\n'
        b"event: rollout.progress\n"
        b'data: {"id":0,"time":"2026-03-01T12:00:00Z","type":"rollout.progress","subject":"ro-12","data":{}}\n\n'
    )


def test_a_stream_that_says_nothing_says_how_far_it_came() -> None:
    assert encode(Batch([], 43)) == b": nothing new\nid: 43\n\n"


class Client:
    """Behind a feed that always has one more event."""

    def __init__(self) -> None:
        self.feed = Endless()
        self.sent: list[Any] = []
        self.reads, self.leaves = asyncio.Event(), asyncio.Event()
        hub: Any = SimpleNamespace(events=self.feed, progress=SimpleNamespace(listeners=0, version=0))
        self.stream = EventStream(hub, VIEWER, Wanted(), None, live=False, on=True)

    async def receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.sent.append(message)


class Endless(EventFeed):
    """A feed without a database."""

    def __init__(self) -> None:
        super().__init__(None, 1)  # type: ignore[arg-type]

    async def begin(self, after: int | None) -> int:
        return after or 41

    async def since(self, after: int, wanted: Wanted) -> Batch:
        await asyncio.sleep(0)
        return Batch([msgspec.structs.replace(HALTED, id=after + 1)], after + 1, more=True)


@pytest.fixture
def client() -> Client:
    return Client()


async def test_a_client_that_leaves_leaves_its_place(client: Client) -> None:
    client.reads.set()
    streaming = asyncio.create_task(client.stream({}, client.receive, client.send))  # type: ignore[arg-type]
    while len(client.sent) < 5:
        await asyncio.sleep(0)
    assert client.feed.open == 1
    client.leaves.set()
    await streaming
    assert client.feed.open == 0
    start, first, second = client.sent[:3]
    assert (start["status"], dict(start["headers"])[b"content-type"]) == (200, b"text/event-stream")
    assert first["body"] == b"retry: 3000\nid: 41\n\n", "it can go on from here, before the first event"
    assert second["body"].startswith(b"id: 42\n")


async def test_a_client_that_does_not_read_is_dropped(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "SEND_S", 0.02)
    client.reads.set()
    streaming = asyncio.create_task(client.stream({}, client.receive, client.send))  # type: ignore[arg-type]
    while len(client.sent) < 3:
        await asyncio.sleep(0)
    client.reads.clear()
    async with asyncio.timeout(30):
        await streaming
    assert client.feed.open == 0
    assert client.sent[-1].get("more_body"), "it is not told that this was the end"


async def test_a_stream_is_not_at_work_once_it_has_begun(client: Client) -> None:
    layer = Shedding(client.stream, most=1, interval_s=60)
    client.reads.set()
    streaming = asyncio.create_task(layer({"type": "http", "path": "/api/v1/events"}, client.receive, client.send))
    while len(client.sent) < 5:
        await asyncio.sleep(0)
    assert layer.at_work == 0, "while it waits for what will happen"
    client.reads.clear()
    for _ in range(5):
        await asyncio.sleep(0)
    assert layer.at_work == 0, "while it waits for its client, which makes room for nobody"
    client.leaves.set()
    await streaming
    assert layer.at_work == 0
    assert not layer.shed


async def test_what_is_refused_is_refused_before_anything_is_sent(client: Client) -> None:
    client.reads.set()
    with client.feed.place(VIEWER), pytest.raises(Unavailable):
        await client.stream({}, client.receive, client.send)  # type: ignore[arg-type]
    assert client.sent == []


async def test_how_long_somebody_listens_is_no_time_to_answer(client: Client) -> None:
    path = "/a-stream-of-this-test"
    edge = Edge(client.stream)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "GET", "path": path, "path_template": path, "headers": []}
    client.reads.set()
    streaming = asyncio.create_task(edge(scope, client.receive, client.send))
    while len(client.sent) < 3:
        await asyncio.sleep(0)
    await asyncio.sleep(0.35)
    client.leaves.set()
    await streaming
    took = {
        sample.labels["le"]: sample.value
        for family in SECONDS.collect()
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["path"] == path
    }
    assert took["0.3"] == took["+Inf"] == 1

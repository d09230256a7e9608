"""One stream: what it shows, when it says nothing, and when it ends; and how rollouts go on."""

import asyncio
from typing import Any

import msgspec
import pytest
from sqlalchemy import update
from sqlmodel import col

from sdx_hub.observing import DATABASE_READ, observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutTally, RolloutWave
from sdx_hub.services.events import following
from sdx_hub.services.events.feed import Batch, EventFeed, Wanted
from sdx_hub.services.events.following import follow
from sdx_hub.services.events.progress import Progress
from tests.unit.sdx_hub.services.conftest import START, VIEWER, MovableClock
from tests.unit.sdx_hub.services.crafts import add_release
from tests.unit.sdx_hub.services.events.test_feed import happen

ALL = Wanted()


class Streams:
    """A feed with its progress, and what a stream has shown."""

    def __init__(self, database: Database, clock: MovableClock) -> None:
        self.feed = EventFeed(database, 10)
        self.progress = Progress(database, clock, self.feed.wake)
        self.shown: list[Batch] = []

    def begin(
        self, wanted: Wanted = ALL, after: int = 0, *, live: bool = False, on: bool = True
    ) -> "asyncio.Task[None]":
        async def stream() -> None:
            with self.feed.place(VIEWER):
                start = await self.feed.begin(0)
                async for batch in follow(self.feed, self.progress, wanted, start, live=live, on=on):
                    self.shown.append(batch)

        return asyncio.create_task(stream())

    @property
    def kinds(self) -> list[str]:
        return [event.type for batch in self.shown for event in batch.events]

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.shown) < count:
                await asyncio.sleep(0.005)


@pytest.fixture
def streams(database: Database, clock: MovableClock) -> Streams:
    return Streams(database, clock)


async def add_rollout(database: Database, number: int, state: str, **devices: int) -> None:
    if number == 1:
        await add_release(database, "nav", "1.0.0", b"{}")
    async with database.unit_of_work() as uow:
        uow.session.add(
            Rollout(
                number=number,
                release_id="nav@1.0.0",
                product="nav",
                state=state,
                spec="{}",
                seed=1,
                priority=0,
                wave=1,
                created_by="olga",
                created_at=START,
            )
        )
        await uow.session.flush()
        uow.session.add(RolloutWave(rollout=number, wave=1, label="1", size=9))
        for stratum, (name, count) in enumerate(devices.items()):
            uow.session.add(RolloutTally(rollout=number, wave=1, stratum=stratum % 2, state=name, devices=count))
        await uow.commit()


async def test_a_stream_that_does_not_follow_ends_with_what_has_happened(database: Database, streams: Streams) -> None:
    await happen(database, "rollout.created", "rollout.halted")
    await streams.begin(on=False)
    assert streams.kinds == ["rollout.created", "rollout.halted"]
    assert streams.feed.open == 0


async def test_a_stream_shows_what_happens_while_it_is_open_and_ends_with_the_process(
    database: Database, streams: Streams
) -> None:
    await happen(database, "rollout.created")
    stream = streams.begin(Wanted("", ("rollout.*",)))
    await streams.reaches(1)
    await happen(database, "rollout.halted", "webhook.disabled")
    await streams.feed.look()
    await streams.reaches(2)
    assert streams.kinds == ["rollout.created", "rollout.halted"]
    streams.feed.close()
    await stream
    assert streams.feed.open == 0


async def test_a_stream_says_that_it_is_alive(
    database: Database, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "KEEP_ALIVE_S", 0.01)
    await happen(database, "webhook.disabled")
    stream = streams.begin(Wanted("", ("rollout.*",)))
    await streams.reaches(2)
    assert streams.shown[1] == Batch([], 1), "it has passed what it does not show"
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream
    assert streams.feed.open == 0


async def test_a_stream_says_that_it_is_alive_while_others_have_much_to_say(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "KEEP_ALIVE_S", 0.05)
    stream = streams.begin()
    async with asyncio.timeout(30):
        while len(streams.shown) < 2:
            streams.feed.wake()
            await asyncio.sleep(0.001)
    streams.feed.close()
    await stream


async def test_a_stream_does_not_outlive_its_token_for_long(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "KEEP_ALIVE_S", 0.005)
    monkeypatch.setattr(following, "LIFE_S", 0.05)
    async with asyncio.timeout(30):
        await streams.begin()
    assert streams.kinds == []


async def test_rollouts_that_go_on_are_told_of_when_something_has_changed(database: Database, streams: Streams) -> None:
    await add_rollout(database, 1, "running", queued=7, offered=2)
    await add_rollout(database, 2, "finished", committed=9)
    await add_rollout(database, 3, "paused", queued=1)
    observed.take_seconds()
    await streams.progress.look()
    assert observed.take_seconds()[DATABASE_READ] == [], "nobody wants to know"
    stream = streams.begin(Wanted("ro-1", ("rollout.halted",)), live=True)
    while not streams.progress.listeners:
        await asyncio.sleep(0.005)
    await streams.progress.look()
    await streams.reaches(1)
    for _ in range(3):
        await streams.progress.look()
    async with database.unit_of_work() as uow:
        await uow.session.execute(
            update(RolloutTally)
            .where(col(RolloutTally.rollout) == 1, col(RolloutTally.state) == "queued")
            .values(devices=5)
        )
        await uow.commit()
    await streams.progress.look()
    await streams.reaches(2)
    first, second = (batch.events[0] for batch in streams.shown)
    assert (first.id, first.type, first.subject) == (0, "rollout.progress", "ro-1")
    assert read(first.data) == {
        "rollout": "ro-1",
        "state": "running",
        "wave": 1,
        "devices": {"queued": 7, "offered": 2},
    }
    assert read(second.data)["devices"] == {"queued": 5, "offered": 2}
    async with database.unit_of_work() as uow:
        await uow.session.execute(update(Rollout).where(col(Rollout.number) == 1).values(state="finished"))
        await uow.commit()
    await streams.progress.look()
    streams.feed.close()
    await stream
    assert streams.progress.listeners == 0
    assert len(streams.shown) == 2, "the end is an event of its own"


async def test_who_comes_later_is_told_how_it_stands(database: Database, streams: Streams) -> None:
    await add_rollout(database, 1, "running", queued=7)
    first = streams.begin(live=True)
    while not streams.progress.listeners:
        await asyncio.sleep(0.005)
    await streams.progress.look()
    await streams.reaches(1)
    second = streams.begin(live=True)
    await streams.reaches(2)
    assert streams.shown[0].events == streams.shown[1].events
    streams.feed.close()
    await asyncio.gather(first, second)


def read(data: msgspec.Raw) -> Any:
    return msgspec.json.decode(data)

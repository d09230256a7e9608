"""Events are read once for all streams, in their order, each once, from memory or from the database alike."""

import asyncio

import pytest

from sdx_hub.domain.errors import Unavailable
from sdx_hub.observing import DATABASE_READ, observed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.notices import Notices
from sdx_hub.persistence.unit_of_work import EVENTS_CHANNEL
from sdx_hub.services.events import feed as feeding
from sdx_hub.services.events.feed import EventFeed, Wanted
from sdx_hub.services.events.outbox import emit
from tests.support.postgres import Databases
from tests.unit.sdx_hub.services.conftest import START, VIEWER

ALL = Wanted()


async def happen(database: Database, *kinds: str, subject: str = "ro-1", commit: bool = True) -> None:
    async with database.unit_of_work() as uow:
        for kind in kinds:
            emit(uow, START, kind, subject, rollout=subject, sentence="Ünd so weiter.")
        if commit:
            await uow.commit()


async def everything(feed: EventFeed, after: int, wanted: Wanted = ALL) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    while True:
        batch = await feed.since(after, wanted)
        found += [(event.id, event.type) for event in batch.events]
        after = batch.through
        if not batch.more:
            return found


async def test_events_come_in_their_order_each_once_and_only_when_committed(database: Database) -> None:
    feed = EventFeed(database, 10)
    await happen(database, "rollout.created", "rollout.started")
    await happen(database, "rollout.never", commit=False)
    await happen(database, "rollout.halted")
    with feed.place(VIEWER):
        await feed.look()
        found = await everything(feed, 0)
        assert [kind for _, kind in found] == ["rollout.created", "rollout.started", "rollout.halted"]
        assert [number for number, _ in found] == sorted({number for number, _ in found})
        assert await everything(feed, found[1][0]) == found[2:]
        assert await everything(feed, found[2][0]) == []
        batch = await feed.since(0, ALL)
        assert bytes(batch.events[0].data) == '{"rollout":"ro-1","sentence":"Ünd so weiter."}'.encode()
        assert batch.events[0].time == START


@pytest.mark.parametrize("kept", [100, 1], ids=["from memory", "from the database"])
async def test_a_stream_shows_its_subject_and_its_types(
    database: Database, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "_KEPT", kept)
    feed = EventFeed(database, 10)
    await happen(database, "rollout.halted", "webhook.disabled")
    await happen(database, "rollout.halted", "rollout.paused", subject="ro-2")
    with feed.place(VIEWER):
        assert await feed.begin(0) == 0
        kinds = [kind for _, kind in await everything(feed, 0, Wanted("ro-2", ("rollout.halted", "webhook.*")))]
        assert kinds == ["rollout.halted"]
        assert len(await everything(feed, 0, Wanted("ro-1"))) == 2
        assert len(await everything(feed, 0, Wanted("", ("rollout.*",)))) == 3
        batch = await feed.since(0, Wanted("nobody"))
        assert (batch.events, batch.through) == ([], await feed.begin(None)), "what is not shown is passed, too"


async def test_more_than_is_kept_is_read_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "PAGE", 7)
    monkeypatch.setattr(feeding, "_KEPT", 10)
    await happen(database, *(f"rollout.n{number}" for number in range(53)))
    with (feed := EventFeed(database, 10)).place(VIEWER):
        assert await feed.begin(0) == 0
        assert len(await everything(feed, 0)) == 53
        newest = await feed.begin(None)
        for _ in range(3):  # The oldest of what is kept make room.
            await happen(database, *(f"rollout.m{number}" for number in range(9)))
            await feed.look()
        for after in range(newest + 28):
            assert [number for number, _ in await everything(feed, after)] == list(range(after + 1, newest + 28))
        await happen(database, "rollout.last", subject="ro-9")
        await feed.look()
        assert await everything(feed, 0, Wanted("ro-9")) == [(newest + 28, "rollout.last")]


async def test_who_has_seen_nothing_begins_now_and_nobody_begins_in_the_future(database: Database) -> None:
    feed = EventFeed(database, 10)
    assert await feed.begin(None) == 0
    await happen(database, "rollout.created", "rollout.started")
    assert [await feed.begin(after) for after in (None, 0, 1, 2, 10**15)] == [2, 0, 1, 2, 2]


async def test_a_stream_that_ends_at_once_has_seen_what_was_there_when_it_began(database: Database) -> None:
    feed = EventFeed(database, 10)
    with feed.place(VIEWER):
        await feed.begin(None)
    await happen(database, "rollout.halted")
    with feed.place(VIEWER):
        assert len(await everything(feed, await feed.begin(0))) == 1


async def test_nothing_is_read_while_nobody_listens(database: Database) -> None:
    feed = EventFeed(database, 10)
    observed.take_seconds()
    await feed.look()
    assert observed.take_seconds()[DATABASE_READ] == []
    with feed.place(VIEWER):
        await feed.look()
        assert len(observed.take_seconds()[DATABASE_READ]) == 1, "one, whether one stream is open or a hundred"


async def test_a_stream_waits_until_something_happens(database: Database) -> None:
    feed = EventFeed(database, 10)
    with feed.place(VIEWER):
        await feed.look()
        await feed.news(0, 0.01)
        waiting = [asyncio.create_task(feed.news(0, 60)) for _ in range(5)]
        await asyncio.sleep(0)
        await happen(database, "rollout.halted")
        await feed.look()
        async with asyncio.timeout(30):
            await asyncio.gather(*waiting)
            await feed.news(0, 60)  # It has happened already.


async def test_another_replica_is_told(databases: Databases) -> None:
    url = databases.emptied()
    writer, database = await Database.open(url), await Database.open(url)
    feed, notices = EventFeed(database, 10), Notices(database)
    notices.on(EVENTS_CHANNEL, feed.look)
    notices.start()
    try:
        with feed.place(VIEWER):
            waiting = asyncio.create_task(feed.news(await feed.begin(None), 60))
            await happen(writer, "rollout.halted")
            async with asyncio.timeout(30):
                await waiting
            assert [kind for _, kind in await everything(feed, 0)] == ["rollout.halted"]
    finally:
        await notices.stop()
        await database.close()
        await writer.close()


async def test_one_stream_too_many_is_refused_until_another_ends(database: Database) -> None:
    feed = EventFeed(database, 1)
    with feed.place(VIEWER):
        with pytest.raises(Unavailable) as refusal, feed.place(VIEWER):
            pass
        assert refusal.value.code == "too_many_streams"
        assert (feed.open, feed.refused) == (1, 1)
    with feed.place(VIEWER):
        assert feed.open == 1


async def test_the_end_wakes_every_stream_and_lets_none_begin(database: Database) -> None:
    feed = EventFeed(database, 2)
    with feed.place(VIEWER):
        waiting = asyncio.create_task(feed.news(0, 60))
        await asyncio.sleep(0)
        feed.close()
        async with asyncio.timeout(30):
            await waiting
        with pytest.raises(Unavailable) as refusal, feed.place(VIEWER):
            pass
    assert refusal.value.code == "ending"

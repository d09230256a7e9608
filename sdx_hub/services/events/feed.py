"""Events for those who listen: one look at the database for a whole worker, however many streams it has.

Ids become visible in their order, because one writer writes at a time: who has seen event 12 has seen all before it.
The newest events are kept in memory. A stream that is behind them reads pages from the database until it is not, so
nothing is kept for a stream that is slow: it holds one number, the id up to which it has read.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import takewhile
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import Select, func, select
from sqlmodel import col

from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import Unavailable
from sdx_hub.domain.event_types import matches
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.events import HubEvent

LOOK_S: Final = 1.0
"""How often a worker looks when nothing tells it of an event: on SQLite, and where a notice was lost."""
PAGE: Final = 500
_KEPT: Final = 1_000


class Event(Struct, frozen=True):
    """Something that happened.

    Attributes:
        id: 0 for what is told and not stored.
        data: As it was emitted.
    """

    id: int
    time: datetime
    type: str
    subject: str
    data: msgspec.Raw


class Wanted(Struct, frozen=True):
    """What a stream shows.

    Attributes:
        subject: Empty for all.
        types: Patterns; none for all.
    """

    subject: str = ""
    types: tuple[str, ...] = ()

    def takes(self, kind: str, subject: str) -> bool:
        """Whether such an event is shown."""
        return self.subject in {"", subject} and matches(self.types, kind)


class Batch(Struct, frozen=True):
    """Events in their order.

    Attributes:
        through: All up to this id were looked at; the next batch begins after it.
        more: There are more already.
    """

    events: list[Event]
    through: int
    more: bool = False


class EventFeed:
    """What happens, as one worker learns of it.

    Args:
        database: Of the hub.
        most: Streams that are open at once.

    Attributes:
        open: Streams now.
        refused: Streams that were one too many, since the start.
        closed: The process is about to end: so do all streams.
    """

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self.most = most
        self.open = self.refused = 0
        self.closed = False
        self._recent: deque[Event] = deque(maxlen=_KEPT)
        self._floor = self._through = 0  # All events between the two, the last one included, are in _recent.
        self._news = asyncio.Event()
        self._looking = asyncio.Lock()

    @contextmanager
    def place(self, principal: Principal) -> Iterator[None]:
        """The place of one stream, for as long as it is open.

        Raises:
            NotAllowed: The role may not read.
            Unavailable: There is none left (code `too_many_streams`), or the hub is about to end (`ending`).
        """
        principal.require(Permission.READ)
        if self.closed:
            raise Unavailable("This hub is about to end. Come again, another replica will answer.", "ending")
        if self.open >= self.most:
            self.refused += 1
            raise Unavailable(f"{self.most} streams are open here already. Come again later.", "too_many_streams")
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def begin(self, after: int | None) -> int:
        """The id after which a stream begins: `after`, or the newest one there is.

        An `after` that is larger than any id (of a hub that was restored from an older backup) means the newest.
        """
        await self._look()  # What is in memory is then no older than the stream: one that ends there misses nothing.
        return self._through if after is None else min(after, self._through)

    async def since(self, after: int, wanted: Wanted) -> Batch:
        """What is wanted of the events after an id; at most `PAGE` of them are looked at."""
        if after >= self._floor:
            news = list(takewhile(lambda event: event.id > after, reversed(self._recent)))
            found = [event for event in reversed(news) if wanted.takes(event.type, event.subject)]
            return Batch(found, max(self._through, after))
        query = _after(after)
        if wanted.subject:
            query = query.where(col(HubEvent.subject) == wanted.subject)
        async with self._database.reading() as session:
            newest = await session.scalar(select(func.max(HubEvent.id))) or 0
            page = [_event(row) for row in await session.scalars(query)]
        more = len(page) == PAGE
        through = page[-1].id if more else max(newest, after)
        return Batch([event for event in page if wanted.takes(event.type, event.subject)], through, more)

    async def news(self, through: int, seconds: float) -> None:
        """Wait until there may be something after `through`, but not for longer than this."""
        if not self.closed and self._through <= through:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()

    async def look(self) -> None:
        """Find out what happened since the last look; nothing where nobody listens."""
        if self.open:
            await self._look()

    async def _look(self) -> None:
        async with self._looking:
            before = self._through
            async with self._database.reading() as session:
                newest = await session.scalar(select(func.max(HubEvent.id))) or 0
            if newest - before > _KEPT:  # Nobody has listened for long: whoever comes from before reads for himself.
                self._recent.clear()
                self._through = self._floor = newest
            while self._through < newest:
                async with self._database.reading() as session:
                    self._keep([_event(row) for row in await session.scalars(_after(self._through))])
        if self._through != before:
            self.wake()

    def wake(self) -> None:
        """Tell every stream to look."""
        self._news.set()
        self._news = asyncio.Event()

    def close(self) -> None:
        """End every stream, and open no more."""
        self.closed = True
        self.wake()

    def _keep(self, events: list[Event]) -> None:
        for event in events:
            if len(self._recent) == _KEPT:
                self._floor = self._recent[0].id
            self._recent.append(event)
            self._through = event.id


def _after(number: int) -> Select[HubEvent]:
    return select(HubEvent).where(col(HubEvent.id) > number).order_by(col(HubEvent.id)).limit(PAGE)


def _event(row: HubEvent) -> Event:
    return Event(row.id or 0, row.time, row.type, row.subject, msgspec.Raw(row.data.encode()))

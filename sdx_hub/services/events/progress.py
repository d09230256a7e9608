"""How rollouts go on, for whoever looks at one: told at most once a second each, never stored.

Read off the tallies by each worker that has such streams, once for all of them.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Final

import msgspec
from sqlalchemy import func, select
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.rollout.states import ACTIVE
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutTally
from sdx_hub.services.events.feed import Event, Wanted

TYPE: Final = "rollout.progress"
LOOK_S: Final = 1.0


class Progress:
    """The rollouts that go on, by what is known of them now.

    Args:
        database: Of the hub.
        clock: For the time of what is told.
        wake: Called when there is something to tell.

    Attributes:
        listeners: Streams that want to know; without any, nothing is read.
        version: Grows with each change.
    """

    def __init__(self, database: Database, clock: Clock, wake: Callable[[], None]) -> None:
        self._database = database
        self._clock = clock
        self._wake = wake
        self._known: dict[str, tuple[int, Event]] = {}
        self.listeners = 0
        self.version = 0

    def newer(self, version: int, wanted: Wanted) -> list[Event]:
        """What is wanted of the rollouts that have changed since a version; since 0, all that go on."""
        return [
            event
            for changed, event in self._known.values()
            if changed > version and wanted.subject in {"", event.subject}
        ]

    async def look(self) -> None:
        """Find out what has changed; at most as often as it is called."""
        if not self.listeners:
            self._known.clear()
            return
        told = {subject: event.data for subject, (_, event) in self._known.items()}
        now = self._clock.now()
        found = await self._read()
        self._known = {subject: known for subject, known in self._known.items() if subject in found}
        changed = {subject: data for subject, data in found.items() if told.get(subject) != data}
        for subject, data in changed.items():
            self.version += 1
            self._known[subject] = (self.version, Event(0, now, TYPE, subject, data))
        if changed:
            self._wake()

    async def _read(self) -> dict[str, msgspec.Raw]:
        rollouts = select(col(Rollout.number), col(Rollout.state), col(Rollout.wave)).where(
            col(Rollout.state).in_(ACTIVE)
        )
        tallies = (
            select(col(RolloutTally.rollout), col(RolloutTally.state), func.sum(RolloutTally.devices))
            .join(Rollout, col(Rollout.number) == col(RolloutTally.rollout))
            .where(col(Rollout.state).in_(ACTIVE), col(RolloutTally.devices) > 0)
            .group_by(col(RolloutTally.rollout), col(RolloutTally.state))
        )
        devices: defaultdict[int, dict[str, int]] = defaultdict(dict)
        async with self._database.reading() as session:
            for number, state, count in await session.execute(tallies):
                devices[number][state] = int(count)
            rows = (await session.execute(rollouts)).all()
        return {f"ro-{number}": _data(f"ro-{number}", state, wave, devices[number]) for number, state, wave in rows}


def _data(rollout: str, state: str, wave: int, devices: dict[str, int]) -> msgspec.Raw:
    """What is told of a rollout; equal where nothing has changed."""
    known = {"rollout": rollout, "state": state, "wave": wave, "devices": devices}
    return msgspec.Raw(msgspec.json.encode(known, order="sorted"))

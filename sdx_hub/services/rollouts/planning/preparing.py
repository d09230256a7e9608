"""Write the members of a rollout, ten thousand in a transaction, so that others have their turn in between.

Who is a member is looked up once, in one snapshot that the leader holds in memory and names by a random number. That
number is in the rollout's row: members are only ever written from the snapshot that the row names. Whoever comes with
another one, after a crash or as the next leader, puts its own name there, takes the members of the earlier snapshot
away and begins again. So there are never members of two snapshots, and none twice.

    await preparer.look_up(number)                  # reads
    async with database.unit_of_work() as uow:      # until it is done
        done = await preparer.step(uow, row)
"""

import secrets
from array import array
from collections import Counter as Tally
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Boolean, Text, delete, func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.rollout.arranging import Chosen
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.deadlines import deadline
from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.row_lists import rows_of
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDevice, RolloutStratum, RolloutTally, RolloutWave
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.release_lookup import find_release
from sdx_hub.services.rollouts.planning.choosing import choose
from sdx_hub.services.rollouts.records.rollout_rows import order_of

CHUNK: Final = 10_000
"""Members in one transaction: about a second of the writer's turn."""
MAX_CONTROLS: Final = 500
LOOK_UP_S: Final = 30.0
"""For each statement of the look-up: a batch of devices each."""
_SNAPSHOT_BITS: Final = 62


class _Held(Struct, frozen=True):
    """A snapshot.

    Attributes:
        name: Random and positive; negative in a row whose earlier members are still being taken away.
        controls: Indices of the members that are watched while they are not offered anything.
    """

    name: int
    chosen: Chosen
    controls: frozenset[int]


class Preparer:
    """One of them looks after all rollouts of a leader."""

    def __init__(self, database: Database, clock: Clock, chunk: int = CHUNK) -> None:
        self._database = database
        self._clock = clock
        self._chunk = chunk
        self._held: dict[int, _Held] = {}

    async def look_up(self, number: int) -> None:
        """Find out who the members of a rollout are, where that is not known here; outside of a unit of work.

        Raises:
            BadInput: A filter that its query names is gone, for instance, or says something else than before.
            Unavailable: It took too long (code `query_timeout`).
        """
        if number in self._held:
            return
        async with self._database.reading() as session, deadline(session, LOOK_UP_S):
            preparing = select(col(Rollout.number)).where(col(Rollout.state) == "preparing")
            going_on = set(await session.scalars(preparing))
            self._held = {each: held for each, held in self._held.items() if each in going_on}
            row = await session.get(Rollout, number)
            if row is None or number not in going_on or await _complete(session, row):
                return
            release = await find_release(session, row.release_id)
            chosen = await choose(session, order_of(row), release, seed=row.seed, now=self._clock.now())
        name = 1 + secrets.randbits(_SNAPSHOT_BITS)
        self._held[number] = _Held(name, chosen, frozenset(controls_of(chosen)))

    async def step(self, uow: UnitOfWork, row: Rollout) -> bool:
        """Write the next members of a rollout that is `preparing`.

        Args:
            uow: The caller commits it.
            row: Of its session.

        Returns:
            Whether all members are written, with waves, strata and tallies.
        """
        session = uow.session
        if await _complete(session, row):
            self._held.pop(row.number, None)
            return True
        held = self._held.get(row.number)
        if held is None:
            return False
        if abs(row.snapshot) != held.name:
            row.snapshot, row.prepared_through = -held.name, 0
        if row.snapshot < 0:
            if await self._clear(session, row.number):
                return False
            await _begin(session, row, held)
        await self._write(session, row, held)
        return await _complete(session, row)

    async def _clear(self, session: AsyncSession, number: int) -> int:
        """Take members of an earlier snapshot away; return how many there were."""
        mine = col(RolloutDevice.rollout) == number
        found = await session.scalars(select(col(RolloutDevice.number)).where(mine).limit(self._chunk))
        numbers = array("q", found)
        if numbers:
            leftovers = delete(RolloutDevice).where(mine, among(session, col(RolloutDevice.number), numbers))
            await session.execute(leftovers.execution_options(synchronize_session=False))
        return len(numbers)

    async def _write(self, session: AsyncSession, row: Rollout, held: _Held) -> None:
        chosen, start = held.chosen, row.prepared_through
        end = min(start + self._chunk, len(chosen.numbers))
        part = range(start, end)
        if part:
            waves = [
                wave
                for wave, (_, span) in enumerate(chosen.spans(), 1)
                for _ in range(max(span.start, start), min(span.stop, end))
            ]
            kinds = [chosen.kinds[index] for index in chosen.alike[start:end]]
            new = rows_of(
                session,
                {
                    "number": (BigInteger(), chosen.numbers[start:end]),
                    "wave": (BigInteger(), waves),
                    "position": (BigInteger(), [index + 1 for index in part]),
                    "stratum": (BigInteger(), [alike.stratum for alike in kinds]),
                    "site": (Text(), [alike.site for alike in kinds]),
                    "is_control": (Boolean(), [index in held.controls for index in part]),
                },
            )
            same = {"state": "queued", "code": "", "attempt": 0, "flights": 0, "running_s": 0}
            values = {"rollout": literal(row.number), **{column.name: column for column in new.c}}
            values |= {name: literal(value) for name, value in same.items()}
            await session.execute(insert(RolloutDevice).from_select(list(values), select(*values.values())))
        row.prepared_through = end
        await session.flush()


def controls_of(chosen: Chosen) -> list[int]:
    """Indices of the members to watch: the last of those that were heard lately, which are offered nothing for longest.

    The first wave has none: while it is open, it is what they are compared with.
    """
    first = chosen.waves[0].size
    heard = [index for index in range(first, len(chosen.numbers)) if not chosen.is_absent(index)]
    return heard[-MAX_CONTROLS:]


async def _complete(session: AsyncSession, row: Rollout) -> bool:
    """All members of the snapshot that the row names are there."""
    if row.snapshot <= 0:
        return False
    sizes = select(func.sum(col(RolloutWave.size))).where(col(RolloutWave.rollout) == row.number)
    return await session.scalar(sizes) == row.prepared_through


async def _begin(session: AsyncSession, row: Rollout, held: _Held) -> None:
    """Everything but the members: it is small, and says how many of them there will be."""
    chosen = held.chosen
    for table in (RolloutTally, RolloutWave, RolloutStratum):
        await session.execute(
            delete(table).where(col(table.rollout) == row.number).execution_options(synchronize_session=False)
        )
    for wave, (ordered, span) in enumerate(chosen.spans(), 1):
        session.add(RolloutWave(rollout=row.number, wave=wave, label=ordered.label, size=ordered.size))
        tallies = Tally[int]()
        for alike, count in chosen.counted(span):
            tallies[alike.stratum] += count
        session.add_all(
            RolloutTally(rollout=row.number, wave=wave, stratum=stratum, state="queued", devices=devices)
            for stratum, devices in tallies.items()
        )
    session.add_all(
        RolloutStratum(rollout=row.number, stratum=stratum, name=name) for stratum, name in enumerate(chosen.strata, 1)
    )
    row.left_out = msgspec.json.encode({code: left.devices for code, left in sorted(chosen.left_out.items())}).decode()
    row.joined_through = chosen.events_through
    row.snapshot, row.prepared_through = held.name, 0
    await session.flush()

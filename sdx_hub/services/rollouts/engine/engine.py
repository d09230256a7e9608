"""The engine: looks after every rollout at each tick, one transaction for each, and remembers nothing in between.

A tick of a rollout, in this order:

1. members that were due to be heard of: silent, lost or off duty
2. devices that join
3. the tallies, from the outcomes that came since
4. decisions, as long as one changes something
5. what the state that came of it asks for: offers, taking offers back, bringing devices back

It reads everything afresh while it has the turn to write. So it does not matter who ticked before, how often, or where
that one died; and the number of its statements does not depend on how many members there are.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog
from msgspec import structs
from sqlalchemy import and_, exists, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import HubError, Unavailable
from sdx_hub.domain.rollout.accepting import remaining
from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Decision
from sdx_hub.domain.rollout.policy import MAX_WAVES, Order
from sdx_hub.domain.rollout.states import ACTIVE, ENDED, IN_FLIGHT
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutOutcome, RolloutTally
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.devices.fleet_state import FleetState
from sdx_hub.services.rollouts.engine.listening import listen
from sdx_hub.services.rollouts.going_back.putting_back import revert_step, withdraw_step
from sdx_hub.services.rollouts.offering.offering import offer
from sdx_hub.services.rollouts.planning.joining import join
from sdx_hub.services.rollouts.planning.preparing import Preparer
from sdx_hub.services.rollouts.records.applying import apply, changes
from sdx_hub.services.rollouts.records.facts_rows import load_facts
from sdx_hub.services.rollouts.records.rollout_rows import ENGINE, active_rollouts, order_of, rollout_id, tell
from sdx_hub.services.rollouts.records.tallying import count_on

BATCH: Final = 2_000
"""Devices that one tick of one rollout offers something to: some tenths of a second of the writer's turn."""
ENDED_EVERY: Final = timedelta(seconds=15)
"""Between two looks after what still comes in for rollouts that have ended."""
_CHUNKS: Final = 3
"""Chunks of members that one tick writes of a rollout that is prepared."""
_BY_INDEX: Final = text(
    "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), "
    "set_config('enable_mergejoin', 'off', true), set_config('enable_material', 'off', true)"
)
"""A tick comes to a batch of members and looks up what it needs of each. Where PostgreSQL has not counted yet what is
new, it would rather read a table of a million rows, or join two."""
_log = structlog.get_logger(__name__)


class RolloutEngine:
    """One for each process; the leader's is the one that ticks.

    Args:
        database: With the tables.
        clock: For everything that is compared with when devices were seen.
        fleet: Its memory catches up after offers, so that devices hear of them at their next poll.
        batch: See `BATCH`.
        grace_s: So long after a pause without ticks nobody is missed: while no hub was there, nobody could be heard.
    """

    def __init__(
        self, database: Database, clock: Clock, fleet: FleetState, batch: int = BATCH, grace_s: float = 0
    ) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet
        self._batch = batch
        self._grace = timedelta(seconds=grace_s)
        self._preparer = Preparer(database, clock)
        self._ticked_at: datetime | None = None
        self._hears_since: datetime | None = None
        self._ended_at: datetime | None = None

    async def tick(self) -> int:
        """Look after every rollout once; return how many they were.

        Raises:
            Exception: What went wrong with one of them; the others were looked after all the same.
        """
        now = self._clock.now()
        hears = self._hears(now)
        async with self._database.reading() as session:
            numbers = [*await active_rollouts(session), *await self._ended(session, now)]
        failure: Exception | None = None
        for number in numbers:
            try:
                await self._look_after(number, hears=hears)
            except Unavailable:
                raise
            except Exception as error:
                _log.exception("rollout_tick_failed", rollout=rollout_id(number))
                failure = failure or error
        if failure is not None:
            raise failure
        return len(numbers)

    def _hears(self, now: datetime) -> bool:
        """Whether the hub was there for long enough to say that somebody was not heard."""
        if self._ticked_at is None or now - self._ticked_at > self._grace:
            self._hears_since = now
        self._ticked_at = now
        return self._hears_since is None or now - self._hears_since >= self._grace

    async def _ended(self, session: AsyncSession, now: datetime) -> Sequence[int]:
        """Those that have ended and for which something has come in, or is still under way."""
        if self._ended_at is not None and now - self._ended_at < ENDED_EVERY:
            return ()
        self._ended_at = now
        of_rollout = (col(RolloutTally.rollout) == col(Rollout.number), col(RolloutTally.devices) > 0)
        news = exists().where(
            col(RolloutOutcome.rollout) == col(Rollout.number), col(RolloutOutcome.id) > col(Rollout.outcomes_through)
        )
        under_way = exists().where(*of_rollout, col(RolloutTally.state).in_(IN_FLIGHT))
        to_take_back = exists().where(*of_rollout, col(RolloutTally.state).in_(("off_duty", "silent")))
        found = await session.scalars(
            select(col(Rollout.number))
            .where(
                col(Rollout.state).in_(ENDED),
                or_(news, under_way, and_(col(Rollout.state) == "cancelled", to_take_back)),
            )
            .order_by(col(Rollout.number))
        )
        return found.all()

    async def _look_after(self, number: int, *, hears: bool) -> None:
        async with self._database.reading() as session:
            row = await session.get(Rollout, number)
        if row is not None and row.state == "preparing":
            await self._prepare(number)
            return
        async with self._database.unit_of_work() as uow:
            if self._database.backend == "postgresql":
                await uow.session.execute(_BY_INDEX)
            row = await uow.session.get(Rollout, number)
            if row is None or row.state not in {*ACTIVE, *ENDED}:
                return
            now, order = self._clock.now(), order_of(row)
            if hears:
                await listen(uow.session, row, order, now, self._batch)
            if row.state == "running" and order.join:
                await join(uow, row, order, now)
            if row.state == "reverting":
                moved = await self._bring_back(uow, row, now)
            else:
                await count_on(uow, row)
                decision = await self._decide(uow, row, now)
                moved = await self._act(uow, row, order, decision, now)
            if moved:
                uow.after_commit(self._fleet.catch_up)
                await count_on(uow, row)
            await uow.commit()

    async def _decide(self, uow: UnitOfWork, row: Rollout, now: datetime) -> Decision:
        """Apply decisions until one changes nothing; return that one. Waves without members open and close at once."""
        for _ in range(MAX_WAVES + 2):
            facts = await load_facts(uow.session, row, now)
            if (left := remaining(facts)) != facts.accepted:
                facts = structs.replace(facts, accepted=left)
                row.accepted = msgspec.json.encode(left).decode()
            decision = decide(facts)
            if not changes(row, decision):
                return decision
            await apply(uow, row, facts, decision, now)
        raise RuntimeError(f"Deciding about {rollout_id(row.number)} comes to no end.")

    async def _bring_back(self, uow: UnitOfWork, row: Rollout, now: datetime) -> int:
        """Bring the next devices back; return how many. It is over only when none is left that could be.

        So this comes before the decision: a touched device that was queued again, or lost its offer to somebody else,
        does not show in the counts as one that is on its way.
        """
        moved = await revert_step(uow, row, now, self._batch)
        await count_on(uow, row)
        if not moved:
            await self._decide(uow, row, now)
        return moved

    async def _act(self, uow: UnitOfWork, row: Rollout, order: Order, decision: Decision, now: datetime) -> int:
        """Do what the rollout's state asks for; return how many members it came to."""
        match row.state:
            case "running":
                slots = self._batch if decision.slots is None else min(decision.slots, self._batch)
                return await offer(uow, row, order, now, slots) if slots else 0
            case "halted" | "cancelled":
                return await withdraw_step(uow, row, now, self._batch)
        return 0

    async def _prepare(self, number: int) -> None:
        """Write members; the first wave opens at the next tick after the last of them."""
        try:
            await self._preparer.look_up(number)
        except Unavailable:
            raise
        except HubError as error:
            await self._say_why_not(number, error)
            return
        for _ in range(_CHUNKS):
            async with self._database.unit_of_work() as uow:
                row = await uow.session.get(Rollout, number)
                if row is None or row.state != "preparing":
                    return
                if await self._preparer.step(uow, row):
                    now = self._clock.now()
                    row.state, row.code, row.reason, row.started_at = "running", "", "", now
                    await uow.audit(ENGINE, "rollout.begin", rollout_id(number))
                    tell(uow, row, "rollout.started", now, f"{rollout_id(number)} has its members and begins.")
                await uow.commit()

    async def _say_why_not(self, number: int, error: HubError) -> None:
        async with self._database.unit_of_work() as uow:
            row = await uow.session.get(Rollout, number)
            if row is not None and row.state == "preparing" and (row.code, row.reason) != (error.code, str(error)):
                row.code, row.reason = error.code, str(error)
                await uow.commit()

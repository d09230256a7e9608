"""Rollouts as people see them: a list, and one of them with its waves, its gate and what it waits for now."""

import hashlib
from collections.abc import Container, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.rollout.facts import Reading
from sdx_hub.domain.rollout.policy import Approval, Order
from sdx_hub.domain.rollout.standing import Standing, WaveStanding
from sdx_hub.domain.rollout.states import ROLLOUT_STATES
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDecision, RolloutStratum, RolloutTally, RolloutWave
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor
from sdx_hub.services.rollouts.records.rollout_rows import find_rollout, order_of, rollout_id
from sdx_hub.services.rollouts.showing.standings import counted, decision_now, standing, wave_standing

FRESH_S = 10
"""What changes with time alone (how long a soak still is, who of the control is silent) is looked at so often."""


class RolloutView(Standing, frozen=True, kw_only=True):
    """What a list shows; it has no `waits_for` and no `sentence`, which would have to be worked out for each."""

    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Stratum(Struct, frozen=True):
    """A kind of device, and how many members of each wave are of it."""

    stratum: int
    name: str
    members: dict[int, int]


class RolloutDetail(RolloutView, frozen=True, kw_only=True):
    """One rollout whole.

    Attributes:
        gate: What the gate shows now; None before there is anything to read.
        spec: As it was ordered, with every default filled in.
        left_out: Devices that match and are no members, counted by code.
        outcomes_through: The counts are those of all outcomes up to this id.
    """

    waves: tuple[WaveStanding, ...]
    strata: tuple[Stratum, ...]
    gate: Reading | None
    spec: Order
    approval: Approval | None
    left_out: dict[str, int]
    outcomes_through: int


class Shown(Struct, frozen=True):
    """One rollout, unless the caller has seen this version of it."""

    version: str
    detail: RolloutDetail | None


class RolloutViews:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(
        self, principal: Principal, *, state: str | None, product: str | None, cursor: str | None, limit: int
    ) -> Page[RolloutView]:
        """Rollouts, the newest first.

        Raises:
            NotAllowed: The role may not read.
            BadInput: The state or the cursor is none (codes `invalid_state`, `invalid_cursor`).
        """
        principal.require(Permission.READ)
        if state is not None and state not in ROLLOUT_STATES:
            raise BadInput(f"A rollout is {', '.join(ROLLOUT_STATES)}; not {state[:40]!r}.", "invalid_state")
        query = select(Rollout).order_by(col(Rollout.number).desc()).limit(limit + 1)
        if state is not None:
            query = query.where(col(Rollout.state) == state)
        if product is not None:
            query = query.where(col(Rollout.product) == product)
        if cursor:
            query = query.where(col(Rollout.number) < decode_cursor(cursor, int))
        async with self._database.reading() as session:
            rows, more = cut((await session.scalars(query)).all(), limit)
            found = await _views(session, rows)
        return Page(found, encode_cursor(rows[-1].number) if more else None)

    async def show(self, principal: Principal, name: str, seen: Container[str] = ()) -> Shown:
        """One rollout, with what its engine would do now.

        Args:
            principal: Who asks.
            name: `ro-3`.
            seen: Versions that the caller has: they are not made again.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such rollout (code `rollout_unknown`).
        """
        principal.require(Permission.READ)
        now = self._clock.now()
        async with self._database.reading() as session:
            row = await find_rollout(session, name)
            waves = (
                await session.scalars(
                    select(RolloutWave).where(col(RolloutWave.rollout) == row.number).order_by(col(RolloutWave.wave))
                )
            ).all()
            version = await _version(session, row, waves, now)
            return Shown(version, None if version in seen else await _detail(session, row, waves, now))


async def _views(session: AsyncSession, rows: Sequence[Rollout]) -> list[RolloutView]:
    numbers = [row.number for row in rows]
    tally, wave = col(RolloutTally.rollout), col(RolloutWave.rollout)
    counted = await session.execute(
        select(tally, col(RolloutTally.state), func.sum(col(RolloutTally.devices)))
        .where(tally.in_(numbers), col(RolloutTally.devices) > 0)
        .group_by(tally, col(RolloutTally.state))
    )
    members: dict[int, dict[str, int]] = {number: {} for number in numbers}
    for number, state, devices in counted:
        members[number][state] = int(devices)
    waves = dict((await session.execute(select(wave, func.count()).where(wave.in_(numbers)).group_by(wave))).all())
    return [RolloutView(**_common(row, members[row.number], waves.get(row.number, 0))) for row in rows]


async def _detail(session: AsyncSession, row: Rollout, waves: Sequence[RolloutWave], now: datetime) -> RolloutDetail:
    order = order_of(row)
    tallies = (
        await session.scalars(
            select(RolloutTally).where(col(RolloutTally.rollout) == row.number, col(RolloutTally.devices) > 0)
        )
    ).all()
    strata = await session.scalars(
        select(RolloutStratum).where(col(RolloutStratum.rollout) == row.number).order_by(col(RolloutStratum.stratum))
    )
    decision = await decision_now(session, row, now)
    return RolloutDetail(
        **_common(row, counted((each.state, each.devices) for each in tallies), len(waves)),
        waits_for=decision.waits_for if decision else "",
        sentence=decision.sentence if decision else "",
        gate=decision.reading if decision else None,
        waves=tuple(
            wave_standing(each, counted((tally.state, tally.devices) for tally in tallies if tally.wave == each.wave))
            for each in waves
        ),
        strata=tuple(
            Stratum(
                each.stratum,
                each.name,
                counted((tally.wave, tally.devices) for tally in tallies if tally.stratum == each.stratum),
            )
            for each in strata
        ),
        spec=order,
        approval=msgspec.json.decode(row.signatures, type=Approval) if row.signatures != "{}" else None,
        left_out=msgspec.json.decode(row.left_out, type=dict[str, int]),
        outcomes_through=row.outcomes_through,
    )


def _common(row: Rollout, members: dict[str, int], wave_count: int) -> dict[str, Any]:
    where = standing(row, members, wave_count)
    shown = {name: getattr(where, name) for name in where.__struct_fields__ if name not in {"waits_for", "sentence"}}
    return shown | {"created_at": row.created_at, "started_at": row.started_at, "ended_at": row.ended_at}


async def _version(session: AsyncSession, row: Rollout, waves: Iterable[RolloutWave], now: datetime) -> str:
    """Of everything that `_detail` shows, without working any of it out."""
    newest = select(func.max(col(RolloutDecision.id))).where(col(RolloutDecision.rollout) == row.number)
    parts = [
        row.model_dump(mode="json"),
        [each.model_dump(mode="json") for each in waves],
        await session.scalar(newest),
        int(now.timestamp()) // FRESH_S,
    ]
    return hashlib.sha256(msgspec.json.encode([rollout_id(row.number), *parts])).hexdigest()[:32]

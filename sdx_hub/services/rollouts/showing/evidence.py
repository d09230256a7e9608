"""The log of a rollout as it was written: every decision with what it was made of, and every outcome.

Nothing is worked out here. Whoever doubts a decision makes it again from its facts, and counts the outcomes again.
"""

import hashlib
import json
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import select
from sqlmodel import col

from sdx_hub.domain.access import Permission, Principal
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.rollouts import RolloutDecision, RolloutOutcome
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor
from sdx_hub.services.rollouts.records.rollout_rows import find_rollout


class DecisionLine(Struct, frozen=True):
    """A decision.

    Attributes:
        actor: `hub`, or the person who commanded it.
        facts: `domain.rollout.facts.Facts`: everything that it was made of.
        decision: `domain.rollout.facts.Decision`.
        outcomes_through: The facts count the outcomes up to this id.
        sha256: Of the facts and the decision as they are kept; the audit log has it too (`rollout.decide`).
    """

    id: int
    time: datetime
    actor: str
    rule: str
    sentence: str
    outcomes_through: int
    facts: dict[str, Any]
    decision: dict[str, Any]
    sha256: str


class OutcomeLine(Struct, frozen=True):
    """A member went from one state to another.

    Attributes:
        was: Empty for a member that joined later; members of the plan begin as `queued`.
    """

    id: int
    time: datetime
    device: str
    serial: str
    wave: int
    stratum: int
    was: str
    state: str
    code: str
    detail: str
    version: int | None


class EvidenceService:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def decisions(
        self, principal: Principal, rollout: str, *, cursor: str | None, limit: int
    ) -> Page[DecisionLine]:
        """Decisions, the oldest first.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such rollout (code `rollout_unknown`).
            BadInput: The cursor is none (code `invalid_cursor`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            number = (await find_rollout(session, rollout)).number
            query = _part(select(RolloutDecision), RolloutDecision, number, cursor, limit)
            rows, more = cut((await session.scalars(query)).all(), limit)
        lines = [
            DecisionLine(
                id=row.id or 0,
                time=row.time,
                actor=row.actor,
                rule=row.rule,
                sentence=row.sentence,
                outcomes_through=row.outcomes_through,
                facts=json.loads(row.facts),
                decision=json.loads(row.decision),
                sha256=hashlib.sha256(f"{row.facts}\n{row.decision}".encode()).hexdigest(),
            )
            for row in rows
        ]
        return Page(lines, encode_cursor(lines[-1].id) if more else None)

    async def outcomes(
        self, principal: Principal, rollout: str, *, cursor: str | None, limit: int
    ) -> Page[OutcomeLine]:
        """Outcomes, the oldest first.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is no such rollout (code `rollout_unknown`).
            BadInput: The cursor is none (code `invalid_cursor`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            number = (await find_rollout(session, rollout)).number
            named = select(RolloutOutcome, col(Device.id), col(Device.serial)).join(
                Device, col(Device.number) == col(RolloutOutcome.number)
            )
            query = _part(named, RolloutOutcome, number, cursor, limit)
            rows, more = cut((await session.execute(query)).all(), limit)
        lines = [
            OutcomeLine(
                id=row.id or 0,
                time=row.time,
                device=device,
                serial=serial,
                wave=row.wave,
                stratum=row.stratum,
                was=row.was,
                state=row.state,
                code=row.code,
                detail=row.detail,
                version=row.version,
            )
            for row, device, serial in rows
        ]
        return Page(lines, encode_cursor(lines[-1].id) if more else None)


def _part(
    query: Any, log: type[RolloutDecision] | type[RolloutOutcome], number: int, cursor: str | None, n: int
) -> Any:
    """The `n` lines of a rollout's log after a cursor, the oldest first, and one more."""
    query = query.where(col(log.rollout) == number).order_by(col(log.id)).limit(n + 1)
    return query.where(col(log.id) > decode_cursor(cursor, int)) if cursor else query

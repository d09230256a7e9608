"""What several services do with a rollout's rows inside their own transaction."""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.errors import NotFound
from sdx_hub.domain.rollout.facts import Decision, Facts
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.states import ACTIVE
from sdx_hub.observing import ROLLOUT_DECISIONS, observed
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDecision
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.events.outbox import emit

ENGINE: Final = "hub"
"""Who decides where nobody commands."""
EVENTS: Final[dict[str, tuple[str, ...]]] = {
    "open_wave": ("rollout.wave_closed", "rollout.wave_opened"),
    "advance": ("rollout.wave_closed", "rollout.wave_opened"),
    "pause_gate": ("rollout.paused",),
    "pause_critical": ("rollout.paused",),
    "pause": ("rollout.paused",),
    "resume": ("rollout.resumed",),
    "halt_gate": ("rollout.halted",),
    "halt_release": ("rollout.halted",),
    "halt": ("rollout.halted",),
    "revert": ("rollout.reverting",),
    "revert_done": ("rollout.reverted",),
    "finish": ("rollout.wave_closed", "rollout.finished"),
    "cancel": ("rollout.cancelled",),
    "approve": ("rollout.approved",),
    "start": ("rollout.started",),
    "create": ("rollout.created",),
}
"""What is told of each rule and command; the wave that is closed is the one before."""
_ID: Final = re.compile(r"ro-([1-9][0-9]{0,17})")


def rollout_id(number: int) -> str:
    return f"ro-{number}"


async def find_rollout(session: AsyncSession, identity: str) -> Rollout:
    """Find a rollout by its id, `ro-12`.

    Raises:
        NotFound: There is none (code `rollout_unknown`).
    """
    known = _ID.fullmatch(identity)
    row = await session.get(Rollout, int(known[1])) if known else None
    if row is None:
        raise NotFound(f"There is no rollout {identity[:40]!r}. See: sdx rollout list.", "rollout_unknown")
    return row


def order_of(row: Rollout) -> Order:
    """What was ordered, with every default filled in."""
    return msgspec.json.decode(row.spec, type=Order)


async def active_rollouts(session: AsyncSession) -> Sequence[int]:
    """Numbers of those that the engine looks after, in the order in which they have devices first."""
    found = await session.scalars(
        select(col(Rollout.number))
        .where(col(Rollout.state).in_(ACTIVE))
        .order_by(col(Rollout.urgent).desc(), col(Rollout.priority).desc(), col(Rollout.number))
    )
    return found.all()


async def log_decision(  # noqa: PLR0917 - all of it is always said
    uow: UnitOfWork, row: Rollout, actor: str, facts: Facts, decision: Decision, now: datetime, command: str = ""
) -> None:
    """Keep what was decided and on what, chain it to the audit log, and tell of it. The row is as it was decided.

    Args:
        uow: The transaction that does it.
        row: Of the rollout.
        actor: `hub`, or a person's name.
        facts: Everything that was looked at.
        decision: What came of it.
        now: UTC.
        command: Where a person decided: `pause`, `resume`, ...
    """
    rule = command or decision.rule
    encoded, decided = msgspec.json.encode(facts), msgspec.json.encode(decision)
    uow.session.add(
        RolloutDecision(
            rollout=row.number,
            time=now,
            actor=actor,
            rule=rule,
            sentence=decision.sentence,
            facts=encoded.decode(),
            decision=decided.decode(),
            outcomes_through=facts.outcomes_through,
        )
    )
    observed.count(ROLLOUT_DECISIONS + rule)
    digest = hashlib.sha256(encoded + b"\n" + decided).hexdigest()
    await uow.audit(actor, "rollout.decide", rollout_id(row.number), rule=rule, state=row.state, sha256=digest)
    for kind in EVENTS.get(rule, ()):
        closed = kind == "rollout.wave_closed"
        if closed and facts.wave == 0:
            continue
        tell(uow, row, kind, now, decision.sentence, wave=facts.wave if closed else row.wave, code=row.code)


def tell(uow: UnitOfWork, row: Rollout, kind: str, now: datetime, sentence: str, **more: Any) -> None:
    """Add an event of this rollout, with what every one of them says."""
    data = {"rollout": rollout_id(row.number), "release": row.release_id, "state": row.state, "wave": row.wave}
    emit(uow, now, kind, rollout_id(row.number), **(data | {"sentence": sentence} | more))

"""The log of outcomes, and the members' rows that follow from it.

Whatever changes the state of members first appends to the log, and then folds what it appended into the members' rows,
in one transaction and with one outcome for each member at most:

    mark = await mark_of(session)
    await append(session, select(*entry(now, "withdrawn")).where(...))
    await fold(session, mark)

No row leaves the database. There is one writer at a time, so ids grow in the order of the commits, and everything above
a mark is this transaction's own.
"""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, String, Text, and_, case, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.domain.rollout.states import BACK, IN_FLIGHT
from sdx_hub.persistence.tables.rollouts import RolloutDevice, RolloutOutcome
from sdx_hub.persistence.types import BigInt, UtcDateTime

WATCHED: Final = (*IN_FLIGHT, "off_duty", "reverting")
"""States in which it matters whether the device is still heard."""
_COLUMNS: Final = ("rollout", "number", "wave", "stratum", "was", "state", "code", "detail", "version", "time")
_MAX_ID: Final = 2**63 - 1
_OF_WAY_BACK: Final = ("withdrawn", "skipped", *BACK)


async def mark_of(session: AsyncSession) -> int:
    """The id of the newest outcome; 0 where there is none."""
    return int(await session.scalar(select(func.max(col(RolloutOutcome.id)))) or 0)


def since(mark: int) -> ColumnElement[bool]:
    """Whether an outcome is above a mark. With both ends PostgreSQL takes them for few, also before it counted any."""
    return col(RolloutOutcome.id).between(mark + 1, _MAX_ID)


def entry(now: datetime, state: Any, code: Any = "", detail: Any = "", version: Any = None) -> list[Any]:
    """The columns of an outcome of `RolloutDevice`, for a `select` that is given to `append`; values or expressions."""
    return [
        col(RolloutDevice.rollout),
        col(RolloutDevice.number),
        col(RolloutDevice.wave),
        col(RolloutDevice.stratum),
        col(RolloutDevice.state).label("was"),
        _valued(state, String(16)).label("new_state"),
        _valued(code, String(64)).label("new_code"),
        _valued(detail, Text()).label("detail"),
        _valued(version, BigInt).label("version"),
        literal(now, UtcDateTime).label("time"),
    ]


async def append(session: AsyncSession, source: Select[Any]) -> int:
    """Add an outcome for each row of `source` (see `entry`); return how many."""
    done: Any = await session.execute(insert(RolloutOutcome).from_select(_COLUMNS, source))
    return int(done.rowcount)


async def fold(session: AsyncSession, mark: int) -> None:
    """Let members' rows be what the outcomes above `mark` say.

    A version belongs to the way back where the state does, else to the offer. Nobody is watched for whom it does not
    matter any more.
    """
    outcome, member = RolloutOutcome, RolloutDevice
    back = col(outcome.state).in_(_OF_WAY_BACK)
    said = col(outcome.version).is_not(None)
    await session.execute(
        update(member)
        .where(
            since(mark),
            col(member.rollout) == col(outcome.rollout),
            col(member.number) == col(outcome.number),
        )
        .values(
            state=col(outcome.state),
            code=col(outcome.code),
            offer_version=case((and_(said, ~back), col(outcome.version)), else_=col(member.offer_version)),
            back_version=case((and_(said, back), col(outcome.version)), else_=col(member.back_version)),
            check_at_s=case((col(outcome.state).in_(WATCHED), col(member.check_at_s)), else_=None),
        )
        .execution_options(synchronize_session=False)
    )


async def note(
    session: AsyncSession,
    member: Row[Any],
    now: datetime,
    state: str,
    *,
    code: str,
    detail: str,
    version: int,
    **more: int,
) -> None:
    """Append and fold for one member whose row is at hand, of an offer or a way back that it has already.

    `more` are further columns of the member's row.
    """
    await session.execute(
        insert(RolloutOutcome).values(
            rollout=member.rollout,
            number=member.number,
            wave=member.wave,
            stratum=member.stratum,
            was=member.state,
            state=state,
            code=code,
            detail=detail,
            version=version,
            time=now,
        )
    )
    columns: dict[str, Any] = {"state": state, "code": code, **more}
    if state not in WATCHED:
        columns["check_at_s"] = None
    await session.execute(
        update(RolloutDevice)
        .where(col(RolloutDevice.rollout) == member.rollout, col(RolloutDevice.number) == member.number)
        .values(columns)
        .execution_options(synchronize_session=False)
    )


async def move(session: AsyncSession, source: Select[Any]) -> int:
    """Append and fold, for those who change members in one go; return how many."""
    mark = await mark_of(session)
    count = await append(session, source)
    if count:
        await fold(session, mark)
    return count


def _valued(value: Any, type_: Any) -> Any:
    return literal(value, type_) if value is None or isinstance(value, str | int) else value

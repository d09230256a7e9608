"""Rollouts: who gets a release in which wave, what became of each of them, and every decision with its reasons.

`rollout_outcome` is the log that everything else follows from: a member's row is its latest outcome, and the tallies
count members by state. A member's key is its device's `number`, eight bytes, because there may be a million of them.
"""

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, ForeignKeyConstraint, Index, Text, text
from sqlmodel import Field, SQLModel

from sdx_hub.domain.rollout.states import BACK, BAD, IN_FLIGHT, MEMBER_STATES, ROLLOUT_STATES
from sdx_hub.persistence.types import BigInt, UtcDateTime


def _one_of(names: tuple[str, ...]) -> str:
    return f"state IN ({', '.join(repr(name) for name in names)})"


QUEUED_ROWS = text("state = 'queued'")
IN_FLIGHT_ROWS = text(_one_of(IN_FLIGHT))
BAD_ROWS = text(_one_of(BAD))
CONTROL_ROWS = text("is_control")
TOUCHED_ROWS = text("offer_version IS NOT NULL")
WATCHED_ROWS = text("check_at_s IS NOT NULL")
OPEN_ROWS = text(_one_of((*IN_FLIGHT, "off_duty", "silent")))
AWAY_ROWS = text(f"offer_version IS NOT NULL AND NOT {_one_of(BACK)}")
"""Predicates of the partial indices; a query has to repeat them word by word for SQLite to use the index.

A halt takes back the offers of `OPEN_ROWS`; to `AWAY_ROWS` a revert has not come yet.
"""


def _rollout_key(*, primary_key: bool = False) -> Column[int]:
    return Column(ForeignKey("rollout.number", ondelete="CASCADE"), primary_key=primary_key, nullable=False)


class Rollout(SQLModel, table=True):
    """One release on its way to the devices of a query.

    Attributes:
        number: People write it `ro-NUMBER`.
        state: See `domain.rollout.states`.
        code, reason: Why it is in this state: a stable code, and a sentence.
        spec: JSON of `domain.rollout.policy.Order`, with every default filled in.
        seed: What the order of devices within a stratum is made of.
        wave: The wave that is open; 0 before the first one.
        left_out: JSON object: devices that match and are no members, counted by code.
        signatures: JSON of `domain.rollout.policy.Approval`: what the two-person approval is bound to.
        snapshot: Random name of the look-up that its members come from; 0 before the first one, negative while members
            of an earlier one are taken away (see `services.rollouts.preparing`).
        prepared_through: Position of the last member that is written.
        outcomes_through: Id of the last outcome that is in the tallies.
        joined_through: Id of the last `device_event` that was searched for devices that might join.
        accepted: JSON of `domain.rollout.facts.Accepted`: the evidence that a person accepted when resuming.
    """

    __tablename__ = "rollout"
    __table_args__ = (
        CheckConstraint(_one_of(ROLLOUT_STATES), name="state"),
        Index("ix_rollout_state", "state"),
    )

    number: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    release_id: str = Field(sa_column=Column(ForeignKey("release.id"), nullable=False, index=True))
    product: str = Field(max_length=64)
    state: str = Field(max_length=16)
    code: str = Field(default="", max_length=64)
    reason: str = Field(default="", sa_column=Column(Text, nullable=False))
    spec: str = Field(sa_column=Column(Text, nullable=False))
    seed: int = Field(sa_column=Column(BigInt, nullable=False))
    priority: int = Field(sa_column=Column(BigInt, nullable=False))
    urgent: bool = Field(default=False)
    wave: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    left_out: str = Field(default="{}", sa_column=Column(Text, nullable=False))
    signatures: str = Field(default="{}", sa_column=Column(Text, nullable=False))
    accepted: str = Field(default="{}", sa_column=Column(Text, nullable=False))
    snapshot: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    prepared_through: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    outcomes_through: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    joined_through: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    created_by: str = Field(max_length=80)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    approved_by: str = Field(default="", max_length=80)
    started_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))


class RolloutWave(SQLModel, table=True):
    """One wave.

    Attributes:
        label: As it was ordered: `1`, `10%`, or a query.
        size: Members, joined ones included.
        last_ended_at: When the last of its members ended so far: the soak begins there.
        flights, running_s: Use of its committed members since they committed, all together.
    """

    __tablename__ = "rollout_wave"

    rollout: int = Field(sa_column=_rollout_key(primary_key=True))
    wave: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    label: str = Field(sa_column=Column(Text, nullable=False))
    size: int = Field(sa_column=Column(BigInt, nullable=False))
    opened_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    closed_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    last_ended_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    flights: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    running_s: int = Field(default=0, sa_column=Column(BigInt, nullable=False))


class RolloutStratum(SQLModel, table=True):
    """A kind of device that waves are balanced by: `quad-x4 / site=north / link=lte`."""

    __tablename__ = "rollout_stratum"

    rollout: int = Field(sa_column=_rollout_key(primary_key=True))
    stratum: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    name: str = Field(sa_column=Column(Text, nullable=False))


class RolloutDevice(SQLModel, table=True):
    """A member: one device of one rollout.

    Attributes:
        number: The device's.
        position: The order in which members are offered the release, over all waves; joined ones come last.
        site: For the limit of each site; empty where the device has none.
        is_control: Watched for what happens to devices that were not offered anything, until it is offered it itself.
        state: The latest outcome.
        code: Of that outcome.
        offer_version: The `desired_version` that offers the release: action `DEVICE.OFFER_VERSION`.
        back_version: The one that takes it back.
        offered: The release that was offered last: the rollout's, or a must-pass one before it.
        previous: The last good release before the first offer, which a revert assigns again: what was assigned, unless
            it is not proven, else what ran and is published here; None for nothing.
        check_at_s: When to look whether it is still heard, in seconds since 1970; only while that matters.
        attempt: How often it was offered.
        flights, running_s: Use of the device in total when it committed: what came later counts for the soak.
    """

    __tablename__ = "rollout_device"
    __table_args__ = (
        CheckConstraint(_one_of(MEMBER_STATES), name="state"),
        ForeignKeyConstraint(["rollout", "wave"], ["rollout_wave.rollout", "rollout_wave.wave"], ondelete="CASCADE"),
        Index(
            "ix_rollout_device_queued",
            "rollout",
            "wave",
            "position",
            sqlite_where=QUEUED_ROWS,
            postgresql_where=QUEUED_ROWS,
        ),
        # One update at a time, over all rollouts: no device is offered twice.
        Index(
            "uq_rollout_device_in_flight",
            "number",
            unique=True,
            sqlite_where=IN_FLIGHT_ROWS,
            postgresql_where=IN_FLIGHT_ROWS,
        ),
        Index("ix_rollout_device_touched", "number", sqlite_where=TOUCHED_ROWS, postgresql_where=TOUCHED_ROWS),
        Index(
            "ix_rollout_device_watched",
            "rollout",
            "check_at_s",
            sqlite_where=WATCHED_ROWS,
            postgresql_where=WATCHED_ROWS,
        ),
        Index(
            "ix_rollout_device_site", "rollout", "site", sqlite_where=IN_FLIGHT_ROWS, postgresql_where=IN_FLIGHT_ROWS
        ),
        Index("ix_rollout_device_bad", "rollout", "code", sqlite_where=BAD_ROWS, postgresql_where=BAD_ROWS),
        Index("ix_rollout_device_control", "rollout", "wave", sqlite_where=CONTROL_ROWS, postgresql_where=CONTROL_ROWS),
        Index("ix_rollout_device_open", "rollout", "number", sqlite_where=OPEN_ROWS, postgresql_where=OPEN_ROWS),
        Index("ix_rollout_device_away", "rollout", "number", sqlite_where=AWAY_ROWS, postgresql_where=AWAY_ROWS),
    )

    rollout: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    number: int = Field(sa_column=Column(ForeignKey("device.number", ondelete="CASCADE"), primary_key=True))
    wave: int = Field(sa_column=Column(BigInt, nullable=False))
    position: int = Field(sa_column=Column(BigInt, nullable=False))
    stratum: int = Field(sa_column=Column(BigInt, nullable=False))
    site: str = Field(default="", max_length=512)
    is_control: bool = Field(default=False, sa_column=Column(Boolean, nullable=False))
    state: str = Field(max_length=16)
    code: str = Field(default="", max_length=64)
    offer_version: int | None = Field(default=None, sa_column=Column(BigInt, nullable=True))
    back_version: int | None = Field(default=None, sa_column=Column(BigInt, nullable=True))
    offered: str | None = Field(default=None, max_length=129)
    previous: str | None = Field(default=None, max_length=129)
    check_at_s: int | None = Field(default=None, sa_column=Column(BigInt, nullable=True))
    attempt: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    flights: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    running_s: int = Field(default=0, sa_column=Column(BigInt, nullable=False))


class RolloutTally(SQLModel, table=True):
    """How many members of a wave and stratum are in a state; follows from the outcomes."""

    __tablename__ = "rollout_tally"
    __table_args__ = (CheckConstraint("devices >= 0", name="devices"),)

    rollout: int = Field(sa_column=_rollout_key(primary_key=True))
    wave: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    stratum: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    state: str = Field(primary_key=True, max_length=16)
    devices: int = Field(sa_column=Column(BigInt, nullable=False))


class RolloutOutcome(SQLModel, table=True):
    """A member went from one state to another; append-only.

    Attributes:
        was: Empty for a member that joined later. Members of the plan begin as `queued` without an outcome.
        code, detail: What the device or the engine says of it.
        version: The `desired_version` that it belongs to, where it does.
    """

    __tablename__ = "rollout_outcome"
    __table_args__ = (
        Index("ix_rollout_outcome_rollout_id", "rollout", "id"),
        Index("ix_rollout_outcome_rollout_number", "rollout", "number"),
    )

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True, autoincrement=True))
    rollout: int = Field(sa_column=_rollout_key())
    number: int = Field(sa_column=Column(BigInt, nullable=False))
    wave: int = Field(sa_column=Column(BigInt, nullable=False))
    stratum: int = Field(sa_column=Column(BigInt, nullable=False))
    was: str = Field(max_length=16)
    state: str = Field(max_length=16)
    code: str = Field(default="", max_length=64)
    detail: str = Field(default="", sa_column=Column(Text, nullable=False))
    version: int | None = Field(default=None, sa_column=Column(BigInt, nullable=True))
    time: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class RolloutDecision(SQLModel, table=True):
    """What was decided, by whom, and on what; append-only.

    Attributes:
        actor: `hub`, or the person who commanded it.
        rule: Stable name of the rule or command.
        facts: JSON of `domain.rollout.facts.Facts`: everything that the decision was made of.
        decision: JSON of `domain.rollout.facts.Decision`.
        outcomes_through: The facts count the outcomes up to this id.
    """

    __tablename__ = "rollout_decision"
    __table_args__ = (Index("ix_rollout_decision_rollout_id", "rollout", "id"),)

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True, autoincrement=True))
    rollout: int = Field(sa_column=_rollout_key())
    time: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    actor: str = Field(max_length=80)
    rule: str = Field(max_length=32)
    sentence: str = Field(sa_column=Column(Text, nullable=False))
    facts: str = Field(sa_column=Column(Text, nullable=False))
    decision: str = Field(sa_column=Column(Text, nullable=False))
    outcomes_through: int = Field(sa_column=Column(BigInt, nullable=False))


class DevicePin(SQLModel, table=True):
    """A device that stays on what it runs, whatever rolls out."""

    __tablename__ = "device_pin"

    number: int = Field(sa_column=Column(ForeignKey("device.number", ondelete="CASCADE"), primary_key=True))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    pinned_by: str = Field(max_length=80)
    pinned_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class DeviceUsage(SQLModel, table=True):
    """How much a device was used, by its last signed report: totals that only grow."""

    __tablename__ = "device_usage"

    number: int = Field(sa_column=Column(ForeignKey("device.number", ondelete="CASCADE"), primary_key=True))
    flights: int = Field(sa_column=Column(BigInt, nullable=False))
    running_s: int = Field(sa_column=Column(BigInt, nullable=False))
    reported_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))

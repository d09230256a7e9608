"""What each device should run, and how every attempt to get there ended."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, text
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import BigInt, UtcDateTime

_OPEN = text("state = 'open'")


def _device_key(*, primary_key: bool = False, index: bool = False) -> Column[str]:
    return Column(ForeignKey("device.id", ondelete="CASCADE"), primary_key=primary_key, index=index, nullable=False)


class Assignment(SQLModel, table=True):
    """The release of one product that a device should run."""

    __tablename__ = "assignment"

    device_id: str = Field(sa_column=_device_key(primary_key=True))
    product: str = Field(primary_key=True, max_length=64)
    release_id: str = Field(sa_column=Column(ForeignKey("release.id"), nullable=False, index=True))
    assigned_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class Action(SQLModel, table=True):
    """One desired state of a device, and how it ended. At most one of a device is open.

    Attributes:
        id: `DEVICE.DESIRED_VERSION`, as the director signs it.
        releases: JSON object, product to release id.
        state: `open`, or one of the final ones; the first final result stays.
    """

    __tablename__ = "action"
    __table_args__ = (
        CheckConstraint(
            "state IN ('open', 'success', 'failed', 'rolled_back', 'refused', 'cancelled', 'superseded')", name="state"
        ),
        Index("uq_action_open", "device_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
        Index("ix_action_device_id_desired_version", "device_id", "desired_version"),
    )

    id: str = Field(primary_key=True, max_length=128)
    device_id: str = Field(sa_column=_device_key())
    desired_version: int = Field(sa_column=Column(BigInt, nullable=False))
    releases: str = Field(sa_column=Column(Text, nullable=False))
    state: str = Field(max_length=16)
    code: str = Field(default="", max_length=64)
    detail: str = Field(default="", sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    finished_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))

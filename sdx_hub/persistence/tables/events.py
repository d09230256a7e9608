"""What happened, for those who want to be told: the outbox, and where it is sent."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, Text, text
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import BigInt, UtcDateTime

DUE_ROWS = text("state = 'due'")


class HubEvent(SQLModel, table=True):
    """One thing that happened; append-only, written in the transaction that makes it so.

    Attributes:
        type: Dotted, for instance `rollout.halted`.
        subject: Id of the thing: `ro-12`.
        data: JSON object, as receivers get it.
    """

    __tablename__ = "hub_event"
    __table_args__ = (Index("ix_hub_event_subject_id", "subject", "id"),)

    id: int | None = Field(default=None, sa_column=Column(BigInt, primary_key=True, autoincrement=True))
    time: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    type: str = Field(max_length=64)
    subject: str = Field(max_length=128)
    data: str = Field(sa_column=Column(Text, nullable=False))


class Webhook(SQLModel, table=True):
    """An address that is told of events.

    Attributes:
        types: JSON list of event types, or of prefixes that end in `.*`; empty means all.
        secret: The key of the signature, base64. It is needed in clear to sign with.
        sent_through: Id of the last event that deliveries were made of.
        failing_since: When the first attempt failed after the last that did not; None while it goes well.
        disabled_at: After it failed for too long, or at its receiver's wish; a person enables it again.
        disabled_code: `failing` or `gone`; empty while it is enabled.
    """

    __tablename__ = "webhook"

    id: str = Field(primary_key=True, max_length=32)
    url: str = Field(sa_column=Column(Text, nullable=False))
    types: str = Field(sa_column=Column(Text, nullable=False))
    secret: str = Field(max_length=128)
    sent_through: int = Field(sa_column=Column(BigInt, nullable=False))
    created_by: str = Field(max_length=80)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    failing_since: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    disabled_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))
    disabled_code: str = Field(default="", max_length=32)

    def __repr__(self) -> str:
        return f"Webhook(id={self.id!r}, secret=***)"


class WebhookDelivery(SQLModel, table=True):
    """One event on its way to one address.

    Attributes:
        state: `due` until it was taken (`done`) or given up (`failed`).
        next_at: When it is tried next; of one that is not due any more, when that became so.
        status: HTTP status of the last attempt; 0 where there was no answer.
        error: What went wrong last.
    """

    __tablename__ = "webhook_delivery"
    __table_args__ = (
        CheckConstraint("state IN ('due', 'done', 'failed')", name="state"),
        Index("ix_webhook_delivery_due", "next_at", sqlite_where=DUE_ROWS, postgresql_where=DUE_ROWS),
    )

    webhook_id: str = Field(sa_column=Column(ForeignKey("webhook.id", ondelete="CASCADE"), primary_key=True))
    event_id: int = Field(sa_column=Column(ForeignKey("hub_event.id"), primary_key=True))
    state: str = Field(max_length=16)
    attempts: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    next_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    status: int = Field(default=0, sa_column=Column(BigInt, nullable=False))
    error: str = Field(default="", sa_column=Column(Text, nullable=False))

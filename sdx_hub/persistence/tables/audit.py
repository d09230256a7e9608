"""The audit log, a chain of hashes, and the counters that are taken in commit order."""

from datetime import datetime

from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import BigInt, UtcDateTime


class AuditEntry(SQLModel, table=True):
    """Who did what, chained: each entry holds the hash of the one before, so that none can be changed unseen.

    The migration adds triggers that refuse UPDATE and DELETE; the chain finds whoever goes around them.

    Attributes:
        seq: 1, 2, 3, ... without gaps.
        detail: Canonical JSON.
        hash: SHA-256 of the canonical JSON of all the other columns (see `sdx_hub.domain.audit_chain`).
    """

    __tablename__ = "audit_entry"

    seq: int = Field(sa_column=Column(BigInt, primary_key=True, autoincrement=False))
    time: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    actor: str = Field(max_length=80)
    action: str = Field(max_length=64)
    subject: str = Field(max_length=200, index=True)
    detail: str = Field(sa_column=Column(Text, nullable=False))
    prev_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64, unique=True)


class Counter(SQLModel, table=True):
    """A number that grows. The row stays locked until the commit, so a larger number was committed later.

    A database sequence does not promise that, and a reader that remembers the last number would then miss changes.
    """

    __tablename__ = "counter"

    name: str = Field(primary_key=True, max_length=32)
    value: int = Field(sa_column=Column(BigInt, nullable=False))

"""Tokens of people and of CI jobs."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import UtcDateTime


class PersonToken(SQLModel, table=True):
    """A bearer token; only its SHA-256 is here, so that a stolen database opens nothing.

    Attributes:
        name: Whose it is; one person may have several tokens.
        role: One of `sdx_hub.domain.access.Role`.
    """

    __tablename__ = "person_token"
    __table_args__ = (CheckConstraint("role IN ('viewer', 'operator', 'publisher', 'approver', 'admin')", name="role"),)

    id: str = Field(primary_key=True, max_length=16)
    name: str = Field(max_length=64, index=True)
    role: str = Field(max_length=16)
    token_sha256: str = Field(max_length=64, unique=True)
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    expires_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    revoked_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime, nullable=True))

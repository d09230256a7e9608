"""Answers to requests that create something, kept so that a retry gets the same answer and makes nothing twice."""

from datetime import datetime

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import UtcDateTime


class IdempotentRequest(SQLModel, table=True):
    """One request with an `Idempotency-Key`.

    Attributes:
        id: SHA-256 over who asked and the key that they chose.
        request_sha256: Of method, path and body: the same key for another request is a mistake.
        answer: Sealed with a key made of the caller's own token, because an answer may hold a secret and a stolen
            database must open nothing. None while the first request is at work, or after it died half-way.
    """

    __tablename__ = "idempotent_request"

    id: str = Field(primary_key=True, max_length=64)
    request_sha256: str = Field(max_length=64)
    answer: bytes | None = Field(default=None, sa_column=Column(LargeBinary, nullable=True))
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False, index=True))

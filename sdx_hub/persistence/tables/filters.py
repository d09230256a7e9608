"""Queries that people keep under a name."""

from datetime import datetime

from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from sdx_hub.persistence.types import UtcDateTime


class SavedFilter(SQLModel, table=True):
    """A query of `sdx_hub.domain.query`, usable in others as `filter(NAME)`.

    Attributes:
        query: In its canonical form; it names only filters that exist, and never itself in a circle.
        author: Who saved it last.
    """

    __tablename__ = "saved_filter"

    name: str = Field(primary_key=True, max_length=64)
    query: str = Field(sa_column=Column(Text, nullable=False))
    author: str = Field(max_length=64)
    saved_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))

"""Rows by a list of their keys, where the database would go another way.

A list of numbers is one parameter: thousands of them would cost more than the statement. A list that another query
gives is made first, and its keys are looked up: PostgreSQL plans by what it counted last, and an index that held next
to nothing then it would read from one end to the other for each key.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Select, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncSession


def among(session: AsyncSession, column: Any, numbers: Sequence[int]) -> ColumnElement[bool]:
    """Whether `column` is one of `numbers`, for statements of this session."""
    if session.get_bind().dialect.name == "postgresql":
        condition: ColumnElement[bool] = column == any_(bindparam(None, list(numbers), ARRAY(BigInteger)))
        return condition
    values = func.json_each(msgspec.json.encode(list(numbers)).decode()).table_valued("value")
    found: ColumnElement[bool] = column.in_(select(values.c.value))
    return found


def found_in(session: AsyncSession, column: Any, query: Select[Any]) -> ColumnElement[bool]:
    """Whether `column`, which an index begins with, is one of those that `query` gives, which stands for itself."""
    keys = query.correlate(None)
    if session.get_bind().dialect.name == "postgresql":
        condition: ColumnElement[bool] = column == any_(func.array(keys.scalar_subquery()))
        return condition
    found: ColumnElement[bool] = column.in_(keys)
    return found

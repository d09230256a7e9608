"""A list of numbers as one parameter, where thousands of parameters would cost more than the statement."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import BigInteger, ColumnElement, any_, bindparam, func, select
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

"""What an error of the database means for whoever asked."""

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError, InternalError

from sdx_hub.domain.errors import Unavailable
from sdx_hub.persistence.failures import translated


def test_a_connection_that_broke_in_the_middle_of_something_is_a_database_that_is_away() -> None:
    """Seen at a restart of PostgreSQL: the server's goodbye came while a rollback was being sent."""
    dbapi = AsyncAdapt_asyncpg_dbapi(asyncpg)
    found = dbapi.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
    error = DBAPIError.instance(None, None, found, dbapi.Error)
    assert isinstance(error, InternalError)
    with pytest.raises(Unavailable) as refused, translated():
        raise error
    assert refused.value.code == "database_unavailable"

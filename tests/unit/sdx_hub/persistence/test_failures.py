"""What databases refuse reaches whoever asked as what it means: do not send this, come again, or a fault."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sdx_hub.domain.errors import BadInput
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import Counter
from sdx_hub.persistence.tables.people import PersonToken
from tests.support.postgres import Databases, make_tables


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url)
    await make_tables(database)
    yield database
    await database.close()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("a\0b", 1, "text_invalid"),
        ("\ud800", 1, "text_invalid"),
        ("large", 2**63, "number_out_of_bounds"),
        ("small", -(2**63) - 1, "number_out_of_bounds"),
    ],
)
async def test_what_no_database_stores_is_bad_input(database: Database, name: str, value: int, code: str) -> None:
    with pytest.raises(BadInput) as refused:
        async with database.unit_of_work() as uow:
            uow.session.add(Counter(name=name, value=value))
            await uow.commit()
    assert refused.value.code == code
    async with database.unit_of_work() as uow:
        uow.session.add(Counter(name="é\U0001f6f0", value=2**63 - 1))
        await uow.commit()


@pytest.mark.parametrize("text_", ["a\0b", "\ud800"])
async def test_nor_is_it_looked_for(database: Database, text_: str) -> None:
    with pytest.raises(BadInput):
        async with database.reading() as session:
            await session.get(PersonToken, text_)


@pytest.fixture
async def postgresql(databases: Databases) -> AsyncIterator[Database]:
    """SQLite tells a wrong statement and a locked file apart by words only, and its columns have no lengths."""
    database = await Database.open(databases.emptied())
    yield database
    await database.close()


async def test_a_statement_that_is_wrong_is_a_fault_and_no_excuse(postgresql: Database) -> None:
    """A 503 would have clients come again for ever."""
    with pytest.raises(DBAPIError):
        async with postgresql.reading() as session:
            await session.execute(text("SELECT no_such_column FROM counter"))


async def test_a_text_that_is_too_long_for_its_column_is_bad_input(postgresql: Database) -> None:
    with pytest.raises(BadInput) as refused:
        async with postgresql.unit_of_work() as uow:
            uow.session.add(Counter(name="x" * 33, value=1))
            await uow.commit()
    assert refused.value.code == "value_out_of_bounds"

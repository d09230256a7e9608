"""What services need to run for real: a database of each kind, people with roles, and a clock that the test moves."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from sdx_hub.domain.access import Principal, Role
from sdx_hub.persistence.database import Database
from tests.support.postgres import make_tables

START = datetime(2026, 3, 1, 12, tzinfo=UTC)

VIEWER = Principal("vera", Role.VIEWER)
OPERATOR = Principal("olga", Role.OPERATOR)
PUBLISHER = Principal("paul", Role.PUBLISHER)
APPROVER = Principal("anna", Role.APPROVER)
ADMIN = Principal("adam", Role.ADMIN)


class MovableClock:
    def __init__(self) -> None:
        self.time = START

    def now(self) -> datetime:
        return self.time

    def move(self, **by: float) -> None:
        self.time += timedelta(**by)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def database(database_url: str, clock: MovableClock) -> AsyncIterator[Database]:
    database = await Database.open(database_url, clock)
    await make_tables(database)
    yield database
    await database.close()

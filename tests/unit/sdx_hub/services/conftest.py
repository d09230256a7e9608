"""What services need to run for real: a database in a file, people with roles, and a clock that the test moves."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import SQLModel

import sdx_hub.persistence.tables  # noqa: F401 - fills the metadata
from sdx_hub.domain.access import Principal, Role
from sdx_hub.persistence.database import Database

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
async def database(tmp_path: Path, clock: MovableClock) -> AsyncIterator[Database]:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", clock)
    async with database.writer.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    yield database
    await database.close()

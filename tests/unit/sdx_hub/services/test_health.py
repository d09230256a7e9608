"""Alarms are said once, not every minute; a database that is away is said to be."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from sdx_hub import migrations
from sdx_hub.domain.errors import Unavailable
from sdx_hub.loops import Loops
from sdx_hub.persistence.database import Database
from sdx_hub.services.health import HealthService
from sdx_hub.services.repositories.trust_alarms import Expiry
from tests.support.driver import driver_has_ended

SOON = datetime(2026, 6, 1, tzinfo=UTC)


def expiry(role: str, *, late: bool = False, expired: bool = False, version: int = 1) -> Expiry:
    return Expiry("image", role, version, SOON, late, expired)


async def opened(tmp_path: Path) -> Database:
    database = await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}")
    await migrations.upgrade(database)
    return database


async def test_ready_names_what_wants_signatures(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    roles = [expiry("root"), expiry("team-nav", late=True), expiry("targets", late=True, expired=True)]
    ready = await HealthService(database, lambda: roles).ready()
    assert (ready.status, [(alarm.role, alarm.expired) for alarm in ready.alarms]) == (
        "ready",
        [("team-nav", False), ("targets", True)],
    )
    await database.close()


async def test_not_ready_without_a_database(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    async with database.writer.begin() as connection:
        await connection.exec_driver_sql("PRAGMA user_version = 1")
    await database.close()
    for file in tmp_path.glob("hub.db*"):
        file.unlink()
    tmp_path.joinpath("hub.db").mkdir()
    with pytest.raises(Unavailable) as refused:
        await HealthService(database, list).ready()
    assert refused.value.code == "database_unavailable"
    await database.close()
    await driver_has_ended()


async def test_an_alarm_is_logged_once_and_again_when_it_has_expired(tmp_path: Path) -> None:
    database = await opened(tmp_path)
    roles = [expiry("team-nav", late=True)]
    health = HealthService(database, lambda: roles)
    with structlog.testing.capture_logs() as said:
        await health.warn()
        await health.warn()
        roles[0] = expiry("team-nav", late=True, expired=True)
        await health.warn()
        await health.warn()
        roles[0] = expiry("team-nav", version=2)
        await health.warn()
    assert [(entry["event"], entry["log_level"]) for entry in said] == [
        ("metadata_past_half_life", "warning"),
        ("metadata_expired", "error"),
    ]
    await database.close()


async def test_a_loop_that_fails_goes_on() -> None:
    import asyncio

    runs = 0
    enough = asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            enough.set()
        raise OSError("away")

    loops = Loops()
    with structlog.testing.capture_logs() as said:
        loops.every(0.001, work, "work")
        await asyncio.wait_for(enough.wait(), 5)
        await loops.stop()
    assert len(said) >= 2
    after = runs
    await asyncio.sleep(0.02)
    assert runs == after

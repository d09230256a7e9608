"""The one way into the database: what is not committed never was, and one writer at a time."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlmodel import col

from sdx_hub.domain.errors import Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.engines import Waits
from sdx_hub.persistence.tables.audit import AuditEntry, Counter
from sdx_hub.persistence.tables.people import PersonToken
from sdx_hub.services.audit_log import verify_chain
from tests.support.driver import driver_has_ended
from tests.support.postgres import make_tables

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class FixedClock:
    def now(self) -> datetime:
        return NOW


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = await Database.open(database_url, FixedClock())
    await make_tables(database)
    yield database
    await database.close()


def token(name: str = "alice", **fields: Any) -> PersonToken:
    base: dict[str, Any] = {
        "id": name[:16],
        "name": name,
        "role": "viewer",
        "token_sha256": name,
        "created_at": NOW,
        "expires_at": NOW,
    }
    return PersonToken(**{**base, **fields})


async def names(database: Database) -> list[str]:
    async with database.reading() as session:
        return sorted(await session.scalars(select(col(PersonToken.name))))


async def entries(database: Database) -> list[AuditEntry]:
    async with database.reading() as session:
        return list(await session.scalars(select(AuditEntry).order_by(col(AuditEntry.seq))))


async def test_a_commit_writes_the_change_and_its_audit_entry_together(database: Database) -> None:
    async with database.unit_of_work() as uow:
        uow.session.add(token())
        await uow.audit("adam", "token.create", "alice", role="viewer")
        await uow.commit()
    assert await names(database) == ["alice"]
    entry = (await entries(database))[0]
    assert (entry.seq, entry.actor, entry.action, entry.subject, entry.detail, entry.time) == (
        1,
        "adam",
        "token.create",
        "alice",
        '{"role":"viewer"}',
        NOW,
    )


async def test_leaving_without_a_commit_or_by_an_error_leaves_nothing(database: Database) -> None:
    called: list[str] = []

    async def note() -> None:
        called.append("ran")

    async with database.unit_of_work() as uow:
        uow.session.add(token())
        await uow.audit("adam", "token.create", "alice")
        await uow.session.flush()
        uow.after_commit(note)
    with pytest.raises(KeyError):
        async with database.unit_of_work() as uow:
            uow.session.add(token())
            await uow.audit("adam", "token.create", "alice")
            await uow.session.flush()
            uow.after_commit(note)
            raise KeyError
    assert await names(database) == []
    assert await entries(database) == []
    assert called == []
    async with database.unit_of_work() as uow:
        assert await uow.next_number("audit") == 1, "a number that was rolled back is given out again: no gaps"


async def test_a_change_whose_audit_entry_cannot_be_written_is_not_made(database: Database) -> None:
    async with database.unit_of_work() as uow:
        uow.session.add(token())
        await uow.audit("adam", "token.create", "alice", battery=0.5)
        with pytest.raises(Exception, match="canonical"):
            await uow.commit()
    assert await names(database) == []


async def test_entries_of_many_transactions_make_one_chain(database: Database) -> None:
    async def work(number: int) -> None:
        async with database.unit_of_work() as uow:
            await uow.audit("adam", "thing.one", str(number))
            await asyncio.sleep(0)
            await uow.audit("adam", "thing.two", str(number))
            if number % 3:
                await uow.commit()

    await asyncio.gather(*(work(number) for number in range(30)))
    async with database.reading() as session:
        assert await verify_chain(session) == 40
    assert [entry.action for entry in await entries(database)] == ["thing.one", "thing.two"] * 20


async def test_a_unit_of_work_commits_once(database: Database) -> None:
    async with database.unit_of_work() as uow:
        await uow.commit()
        with pytest.raises(RuntimeError):
            await uow.commit()


async def test_one_writer_at_a_time_and_readers_go_on_meanwhile(database: Database) -> None:
    order: list[str] = []

    async def second() -> None:
        async with database.unit_of_work() as uow:
            order.append("second")
            assert await uow.session.scalar(select(col(PersonToken.name))) == "alice", "it sees what the first wrote"

    async with database.unit_of_work() as uow:
        uow.session.add(token())
        await uow.session.flush()
        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.05)
        assert await names(database) == []
        order.append("first")
        await uow.commit()
    await waiting
    assert order == ["first", "second"]


async def test_another_replica_waits_for_the_writer(database: Database, database_url: str) -> None:
    """What a transaction has read is still so when it writes, wherever the other writer is."""

    async def writes() -> str:
        try:
            other = await Database.open(database_url, waits=Waits(turn_s=0.1))
        except Unavailable as error:  # SQLite looks at its start whether it can write.
            return error.code
        try:
            async with other.unit_of_work() as uow:
                return f"after {await uow.session.scalar(select(col(PersonToken.name)))}"
        except Unavailable as error:
            return error.code
        finally:
            await other.close()

    async with database.unit_of_work() as uow:
        uow.session.add(token())
        await uow.session.flush()
        assert await writes() == "database_unavailable"
        await uow.commit()
    assert await writes() == "after alice"


async def test_readers_cannot_write(database: Database) -> None:
    async with database.reading() as session:
        with pytest.raises(DBAPIError, match=r"readonly|read-only"):
            await session.execute(insert(Counter).values(name="x", value=1))


async def test_a_reading_is_one_snapshot(database: Database) -> None:
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(PersonToken)) == 0
        async with database.unit_of_work() as uow:
            uow.session.add(token())
            await uow.commit()
        assert await session.scalar(select(func.count()).select_from(PersonToken)) == 0
    assert await names(database) == ["alice"]


_DURABLE = {
    "sqlite": {"PRAGMA synchronous": 2, "PRAGMA journal_mode": "wal", "PRAGMA foreign_keys": 1},
    "postgresql": {"SHOW synchronous_commit": "on", "SHOW transaction_isolation": "read committed"},
}


async def test_a_commit_is_on_the_disk_before_it_returns(database: Database) -> None:
    async with database.writer.connect() as connection:
        for statement, expected in _DURABLE[database.backend].items():
            assert (await connection.execute(text(statement))).scalar_one() == expected, statement


async def test_constraints_of_the_tables_hold(database: Database) -> None:
    async with database.unit_of_work() as uow:
        uow.session.add(token(role="emperor"))
        with pytest.raises(IntegrityError, match="ck_person_token_role"):
            await uow.commit()


async def test_after_commit_runs_outside_of_the_writers_lock(database: Database) -> None:
    done = asyncio.Event()

    async def write_again() -> None:
        async with database.unit_of_work() as uow:
            uow.session.add(token("bob"))
            await uow.commit()
        done.set()

    async with asyncio.timeout(5):
        async with database.unit_of_work() as uow:
            uow.after_commit(write_again)
            uow.after_commit(write_again)
            await uow.commit()
    assert done.is_set()
    assert await names(database) == ["bob"], "the same callback runs once"


async def test_a_failing_callback_does_not_take_the_commit_back(database: Database) -> None:
    ran: list[str] = []

    async def fails() -> None:
        raise ConnectionResetError

    async def next_one() -> None:
        ran.append("next")

    async with database.unit_of_work() as uow:
        uow.session.add(token())
        uow.after_commit(fails)
        uow.after_commit(next_one)
        await uow.commit()
    assert await names(database) == ["alice"]
    assert ran == ["next"]


async def test_numbers_are_given_out_in_commit_order(database: Database) -> None:
    taken: list[int] = []

    async def take(commits: bool) -> None:
        async with database.unit_of_work() as uow:
            number = await uow.next_number("thing")
            await asyncio.sleep(0)
            if commits:
                await uow.commit()
                taken.append(number)

    await asyncio.gather(*(take(number % 2 == 0) for number in range(20)))
    assert taken == list(range(1, 11))


async def test_times_come_back_aware_and_a_naive_one_is_refused(database: Database) -> None:
    elsewhere = datetime(2026, 3, 1, 21, 0, 0, 7, tzinfo=timezone(timedelta(hours=9)))
    async with database.unit_of_work() as uow:
        uow.session.add(token(created_at=elsewhere))
        await uow.commit()
    async with database.reading() as session:
        stored = await session.scalar(select(col(PersonToken.created_at)))
    assert stored == elsewhere
    assert stored.tzinfo is UTC
    async with database.unit_of_work() as uow:
        uow.session.add(token("bob", created_at=datetime(2026, 3, 1)))  # noqa: DTZ001 - that is the point
        with pytest.raises((RuntimeError, StatementError), match="injected clock"):
            await uow.commit()


async def test_a_path_that_cannot_be_written_fails_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="unable to open"):
        await Database.open(f"sqlite+aiosqlite:///{tmp_path / 'missing' / 'hub.db'}")
    await driver_has_ended()

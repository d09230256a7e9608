import pytest
from sqlalchemy import insert, select, text
from sqlmodel import col

from sdx_hub.domain.audit_chain import GENESIS, link
from sdx_hub.domain.errors import NotAllowed, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.services import audit_log
from sdx_hub.services.audit_log import AuditLogService, verify_chain
from tests.unit.sdx_hub.services.conftest import ADMIN, APPROVER, OPERATOR, START, MovableClock


async def write(database: Database, clock: MovableClock, count: int) -> None:
    for number in range(count):
        clock.move(milliseconds=1)
        async with database.unit_of_work() as uow:
            await uow.audit("alice", "thing.do", f"thing-{number}", number=number, text="ä")
            await uow.commit()


async def verify(database: Database) -> int:
    async with database.reading() as session:
        return await verify_chain(session)


async def tamper(database: Database, *statements: str) -> None:
    """What somebody with the database can do: the triggers are no obstacle to them."""
    if database.backend == "postgresql":
        trigger = "ALTER TABLE audit_entry {} TRIGGER USER"
        statements = (trigger.format("DISABLE"), *statements, trigger.format("ENABLE"))
    async with database.writer.begin() as connection:
        for statement in statements:
            await connection.exec_driver_sql(statement)


async def test_a_whole_chain_is_counted(database: Database, clock: MovableClock) -> None:
    assert await verify(database) == 0
    await write(database, clock, 5)
    assert await verify(database) == 5


async def test_a_long_chain_is_followed_across_partitions(
    database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "_ROWS", 3)
    await write(database, clock, 10)
    assert await verify(database) == 10


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE audit_entry SET actor = 'bob' WHERE seq = 3", 3),
        ("UPDATE audit_entry SET action = 'thing.undo' WHERE seq = 3", 3),
        ("UPDATE audit_entry SET subject = 'x' WHERE seq = 3", 3),
        ("UPDATE audit_entry SET time = '2026-03-01 12:00:00.003001' WHERE seq = 3", 3),
        ("""UPDATE audit_entry SET detail = '{"number":7,"text":"ä"}' WHERE seq = 3""", 3),
        ("UPDATE audit_entry SET detail = 'not json' WHERE seq = 3", 3),
        ("UPDATE audit_entry SET hash = 'ab' WHERE seq = 3", 3),
        ("DELETE FROM audit_entry WHERE seq = 3", 3),
        ("DELETE FROM audit_entry WHERE seq = 1", 1),
        ("DELETE FROM audit_entry WHERE seq = 5", 5),
        ("UPDATE audit_entry SET seq = 6 WHERE seq = 5", 5),
    ],
)
async def test_whatever_is_changed_or_removed_is_found(
    database: Database, clock: MovableClock, statement: str, seq: int
) -> None:
    await write(database, clock, 5)
    await tamper(database, statement)
    with pytest.raises(TrustError) as refused:
        await verify(database)
    assert refused.value.code == "audit_chain_broken"
    assert refused.value.extra == {"seq": seq}


async def test_a_changed_entry_with_its_hash_made_anew_breaks_the_next_link(
    database: Database, clock: MovableClock
) -> None:
    await write(database, clock, 5)
    async with database.reading() as session:
        entry = (await session.scalars(select(AuditEntry).where(col(AuditEntry.seq) == 3))).one()
    forged = link(
        seq=3,
        time=entry.time,
        actor="bob",
        action=entry.action,
        subject=entry.subject,
        detail={"number": 2, "text": "ä"},
        prev_hash=entry.prev_hash,
    )
    await tamper(database, f"UPDATE audit_entry SET actor = 'bob', hash = '{forged}' WHERE seq = 3")  # noqa: S608
    with pytest.raises(TrustError) as refused:
        await verify(database)
    assert refused.value.extra == {"seq": 4}


async def test_an_entry_that_is_slipped_in_is_found(database: Database, clock: MovableClock) -> None:
    await write(database, clock, 2)
    async with database.reading() as session:
        last = (await session.execute(text("SELECT hash FROM audit_entry WHERE seq = 2"))).scalar_one()
    forged = link(seq=3, time=START, actor="eve", action="token.create", subject="x", detail={}, prev_hash=last)
    async with database.writer.begin() as connection:
        entry = AuditEntry(
            seq=3, time=START, actor="eve", action="token.create", subject="x", detail="{}", prev_hash=last, hash=forged
        )
        await connection.execute(insert(AuditEntry), entry.model_dump())
    with pytest.raises(TrustError):
        await verify(database)


async def test_an_emptied_log_is_found(database: Database, clock: MovableClock) -> None:
    await write(database, clock, 2)
    await tamper(database, "DELETE FROM audit_entry")
    with pytest.raises(TrustError) as refused:
        await verify(database)
    assert refused.value.extra == {"seq": 1}


async def test_the_list_is_newest_first_and_verifies_elsewhere(database: Database, clock: MovableClock) -> None:
    await write(database, clock, 5)
    service = AuditLogService(database)
    first = await service.list(ADMIN, cursor=None, limit=3)
    second = await service.list(ADMIN, cursor=first.following, limit=3)
    lines = [*first.items, *second.items]
    assert [line.seq for line in lines] == [5, 4, 3, 2, 1]
    assert second.following is None
    previous = GENESIS
    for line in reversed(lines):
        assert line.prev_hash == previous
        previous = link(
            seq=line.seq,
            time=line.time,
            actor=line.actor,
            action=line.action,
            subject=line.subject,
            detail=line.detail,
            prev_hash=line.prev_hash,
        )
        assert line.hash == previous


async def test_only_admins_read_it(database: Database) -> None:
    for principal in (OPERATOR, APPROVER):
        with pytest.raises(NotAllowed):
            await AuditLogService(database).list(principal, cursor=None, limit=1)

"""What goes into a backup comes out of it: every row, to the last bit, from either database into either."""

import asyncio
import hashlib
import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from sqlalchemy import Column, Float, Integer, MetaData, Table, insert, inspect, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from sdx_hub import migrations
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry, Counter
from sdx_hub.persistence.tables.devices import DeviceEvent
from sdx_hub.persistence.tables.idempotency import IdempotentRequest
from sdx_hub.persistence.tables.trust import OnlineKey
from sdx_hub.services.audit_log import verify_chain
from sdx_hub.services.backup import Place, write_backup
from sdx_hub.services.backup.form import form_of
from tests.support.postgres import BACKENDS
from tests.unit.sdx_hub.services.backup.places import NOON, Places, device, fill, restore

DIRECTIONS = [(origin, goal) for origin in BACKENDS for goal in BACKENDS]


async def rows(database: Database) -> dict[str, set[tuple[Any, ...]]]:
    """Every row of every table, as the program sees it."""
    async with database.reading() as session:
        return {
            table.name: {tuple(row) for row in (await session.execute(select(table))).all()}
            for table in SQLModel.metadata.sorted_tables
        }


def unnumbered(device: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without what counts its desired states."""
    names = [column.name for column in SQLModel.metadata.tables["device"].columns]
    counted = {"desired_version", "change_seq"}
    return tuple(value for name, value in zip(names, device, strict=True) if name not in counted)


@pytest.mark.parametrize(("origin", "goal"), DIRECTIONS)
async def test_every_row_and_every_bit(new_place: Places, tmp_path: Path, origin: str, goal: str) -> None:
    before, after = await new_place(origin), await new_place(goal)
    await fill(before)
    done = await write_backup(before, tmp_path / "file", NOON)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    back = await restore(tmp_path / "file", after)
    assert (back.rows, back.time, back.schema) == (done.rows, NOON, migrations.HEAD)
    was, now = await rows(before.database), await rows(after.database)
    assert done.rows == sum(len(each) for each in was.values())
    # The restore is a new entry of the audit log; each device was told its desired state anew, by new numbers.
    told = [now.pop(name) - was.pop(name) for name in ("audit_entry", "counter", "device_event")]
    assert [len(each) for each in told] == [1, 2, 2]
    assert {unnumbered(row) for row in now.pop("device")} == {unnumbered(row) for row in was.pop("device")}
    assert now == was
    key = after.online / "director-targets.key"
    assert (key.read_bytes(), stat.S_IMODE(key.stat().st_mode)) == (b"private", 0o600)
    async with after.database.reading() as session:
        assert await verify_chain(session) == 2
        entry = await session.get_one(AuditEntry, 2)
        assert (entry.action, json.loads(entry.detail)["rows"]) == ("hub.restore", done.rows)
        assert (await session.get_one(Counter, "largest")).value == 2**63 - 1
        assert (await session.get_one(IdempotentRequest, "all")).answer == bytes(range(256))


@pytest.mark.parametrize("backend", BACKENDS)
async def test_what_guards_the_rows_is_there_again(new_place: Places, tmp_path: Path, backend: str) -> None:
    """Numbers go on, the audit log cannot be changed, and no row names one that is not there."""
    before, after = await new_place("sqlite"), await new_place(backend)
    await fill(before)
    await write_backup(before, tmp_path / "file", NOON)
    await restore(tmp_path / "file", after)
    async with after.database.unit_of_work() as uow:
        event = DeviceEvent(device_id="d-2", time=NOON, kind="next", detail="{}")
        uow.session.add(event)
        await uow.session.flush()
        assert event.id == 6  # Three were in the backup, two came with the restore.
        await uow.commit()
    for forbidden in (
        "UPDATE audit_entry SET actor = 'x'",
        "DELETE FROM device_event",
        "INSERT INTO device_tag (device_id, tag) VALUES ('nobody', 'x')",
        "INSERT INTO counter (name, value) VALUES ('audit', 1)",
    ):
        with pytest.raises(DBAPIError):
            async with after.database.writer.begin() as connection:
                await connection.execute(text(forbidden))


def columns(connection: Connection) -> dict[str, set[str]]:
    look = inspect(connection)
    names = set(look.get_table_names()) - {"alembic_version"}
    return {name: {column["name"] for column in look.get_columns(name)} for name in names}


async def test_every_table_with_every_column_is_in_the_file(new_place: Places, tmp_path: Path) -> None:
    place = await new_place("sqlite")
    await migrations.upgrade(place.database)
    async with place.database.writer.connect() as connection:
        there = await connection.run_sync(columns)
    await write_backup(place, tmp_path / "file", NOON)
    with tarfile.open(tmp_path / "file") as tar:
        header = json.load(tar.extractfile("backup.json"))  # type: ignore[arg-type]
    assert {table["name"]: {name for name, _ in table["columns"]} for table in header["tables"]} == there


async def test_a_table_that_comes_later_is_in_it_by_itself(new_place: Places, tmp_path: Path) -> None:
    place = await new_place("sqlite")
    await migrations.upgrade(place.database)
    later = Table("later", SQLModel.metadata, Column("id", Integer, primary_key=True))
    try:
        async with place.database.writer.begin() as connection:
            await connection.run_sync(later.create)
            await connection.execute(insert(later), [{"id": 17}])
        assert (await write_backup(place, tmp_path / "file", NOON)).rows == 1
    finally:
        SQLModel.metadata.remove(later)
    with tarfile.open(tmp_path / "file") as tar:
        packed = tar.extractfile("tables/later/00000001.jsonl.zst")
        assert packed is not None
        assert zstandard.decompress(packed.read()) == b"[17]\n"


def test_a_column_of_an_unknown_kind_is_no_guess() -> None:
    with pytest.raises(RuntimeError, match="no kind"):
        form_of(Table("t", MetaData(), Column("c", Float)))


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_backup_is_one_moment(new_place: Places, tmp_path: Path, backend: str) -> None:
    """What is written while it is made is not in it, not even where its table comes later."""
    place, after = await new_place(backend), await new_place("sqlite")
    await fill(place)

    async def write_more() -> None:
        async with place.database.unit_of_work() as uow:
            uow.session.add(device("d-3"))
            await uow.session.flush()
            uow.session.add(DeviceEvent(device_id="d-3", time=NOON, kind="late", detail="{}"))
            await uow.audit("alice", "thing.do", "late")
            await uow.commit()

    tasks: list[asyncio.Task[None]] = []

    def progress(_: int) -> None:
        if not tasks:
            tasks.append(asyncio.create_task(write_more()))

    was = await rows(place.database)
    await write_backup(place, tmp_path / "file", NOON, progress)
    await tasks[0]
    await restore(tmp_path / "file", after)
    now = await rows(after.database)
    assert {unnumbered(row) for row in now["device"]} == {unnumbered(row) for row in was["device"]}
    assert "late" not in {kind for _, _, _, kind, _ in now["device_event"]}
    async with after.database.reading() as session:
        assert await verify_chain(session) == 2


async def test_payloads_and_settings_come_along(new_place: Places, tmp_path: Path) -> None:
    before, after = await new_place("sqlite"), await new_place("sqlite")
    await fill(before)
    content = os.urandom(3_000_000)
    sha256 = hashlib.sha256(content).hexdigest()
    await put(before, sha256, content)
    (before.data / "hub.toml").write_text("poll_interval_s = 30\n")
    assert (await write_backup(before, tmp_path / "file", NOON)).payloads == 1
    done = await restore(tmp_path / "file", after)
    assert (done.payloads, done.settings) == (1, str(after.data / "hub.toml"))
    assert (after.data / "hub.toml").read_text() == "poll_interval_s = 30\n"
    blobs = after.storage.blobs
    assert b"".join([piece async for piece in blobs.read(sha256, "identity", 0, 2**40)]) == content
    assert await blobs.stat(sha256, "zstd") == 3
    assert not list((after.data / "uploads").iterdir())


async def put(place: Place, sha256: str, content: bytes) -> None:
    for encoding, raw in (("identity", content), ("zstd", b"zst")):
        source = place.storage.scratch.path()
        source.write_bytes(raw)
        await place.storage.blobs.put(sha256, encoding, source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", ['database_url = "postgresql+asyncpg://old"', 'blob_url = "s3://old"', 'keys_dir = "/old"']
)
async def test_settings_that_lead_to_the_old_place_are_put_aside(
    new_place: Places, tmp_path: Path, settings: str
) -> None:
    before, after = await new_place("sqlite"), await new_place("sqlite")
    await fill(before)
    (before.data / "hub.toml").write_text(settings)
    await write_backup(before, tmp_path / "file", NOON)
    assert (await restore(tmp_path / "file", after)).settings == str(after.data / "hub.toml.from-backup")
    assert not (after.data / "hub.toml").exists()


async def test_settings_of_the_new_place_stay(new_place: Places, tmp_path: Path) -> None:
    before, after = await new_place("sqlite"), await new_place("sqlite")
    await fill(before)
    (before.data / "hub.toml").write_text("port = 1\n")
    (after.data / "hub.toml").write_text("port = 2\n")
    await write_backup(before, tmp_path / "file", NOON)
    assert (await restore(tmp_path / "file", after)).settings == str(after.data / "hub.toml.from-backup")
    assert (after.data / "hub.toml").read_text() == "port = 2\n"


async def test_a_payload_that_has_rotted_is_named_and_left_out(new_place: Places, tmp_path: Path) -> None:
    before, after = await new_place("sqlite"), await new_place("sqlite")
    await fill(before)
    good, bad = (hashlib.sha256(text).hexdigest() for text in (b"good", b"bad"))
    await put(before, good, b"good")
    await put(before, bad, b"rotten")
    done = await write_backup(before, tmp_path / "file", NOON)
    assert (done.payloads, done.left_out) == (1, (f"blobs/{bad[:2]}/{bad}",))
    await restore(tmp_path / "file", after)
    assert await after.storage.blobs.stat(good, "identity") == 4
    assert await after.storage.blobs.stat(bad, "identity") is None


async def test_a_key_that_is_not_where_the_settings_say_is_named(new_place: Places, tmp_path: Path) -> None:
    """Whoever runs it with other settings than the hub would find out after the loss."""
    place = await new_place("sqlite")
    await fill(place)
    async with place.database.unit_of_work() as uow:
        for name in ("director-targets.key", "elsewhere.key"):
            uow.session.add(OnlineKey(repository="d", role=name, keyid="k", uri=f"file2:{name}", key="{}"))
        uow.session.add(OnlineKey(repository="d", role="hardware", keyid="k", uri="hsm:1", key="{}"))
        await uow.commit()
    assert (await write_backup(place, tmp_path / "file", NOON)).left_out == ("online/elsewhere.key",)


async def test_a_backup_of_another_version_of_the_schema_changes_nothing(new_place: Places, tmp_path: Path) -> None:
    place = await new_place("sqlite")
    await fill(place)
    for version, code in (("9999", "database_newer"), ("", "database_older")):
        async with place.database.writer.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})
        with pytest.raises(ConflictError) as refused:
            await write_backup(place, tmp_path / "file", NOON)
        assert refused.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["place-1"]

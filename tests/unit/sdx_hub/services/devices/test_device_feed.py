"""What the driver hands over is what the rows say, from both databases, in parts, or not at all."""

import hashlib
from collections.abc import Iterable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import insert, update
from sqlmodel import col

from sdx_hub.persistence import device_feed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.device_feed import ASSIGNED, PENDING, REVOKED, WANTS_INVENTORY, WANTS_TOKEN, DeviceRow
from sdx_hub.persistence.tables.devices import Device
from tests.unit.sdx_hub.services.conftest import START

NONE = bytes(15)


def row(number: int, seq: int, **fields: Any) -> dict[str, Any]:
    def digest(of: str) -> str:
        return hashlib.sha256(f"{of} {number}".encode()).hexdigest()

    return {
        "id": f"d-{digest('id')[:20]}",
        "number": number,
        "serial": f"S{number}",
        "device_key": digest("key"),
        "hardware": "rpi4",
        "state": "accepted",
        "token_sha256": digest("token"),
        "next_token_sha256": None,
        "report_counter": 0,
        "desired_version": 0,
        "has_assignment": False,
        "has_inventory": True,
        "rotation_wanted": False,
        "agent_version": "",
        "change_seq": seq,
        "created_at": START,
    } | fields


async def store(database: Database, rows: list[dict[str, Any]]) -> None:
    async with database.unit_of_work() as uow:
        await uow.session.execute(insert(Device), rows)
        await uow.commit()


async def read(database: Database, since: int) -> tuple[list[DeviceRow], list[int]]:
    """Every row, and how many there were in each part."""
    found: list[DeviceRow] = []
    parts: list[int] = []

    def take(rows: Iterable[DeviceRow]) -> None:
        part = list(rows)
        parts.append(len(part))
        found.extend(part)

    async with database.watching() as session:
        await device_feed.newest(session)
        count = await device_feed.changed_since(database, session, since, take)
    assert count == len(found)
    return sorted(found), parts


async def test_a_row_is_handed_over_as_it_is(database: Database) -> None:
    stored = [
        row(1, 1, desired_version=2**40, has_assignment=True),
        row(2, 2, state="pending", has_inventory=False),
        row(3, 3, state="revoked", desired_version=7, rotation_wanted=True),
        row(70_000, 4, next_token_sha256="ab" * 32),
    ]
    await store(database, stored)
    found, _ = await read(database, 0)
    expected = [(2**40, ASSIGNED), (PENDING, WANTS_INVENTORY), (REVOKED, WANTS_TOKEN), (0, 0)]
    for got, device, (version, flags) in zip(found, stored, expected, strict=True):
        following = bytes.fromhex(device["next_token_sha256"] or "00" * 32)[:15]
        identity, token = bytes.fromhex(device["id"][2:]), bytes.fromhex(device["token_sha256"])[:15]
        assert got == (device["number"], identity, token, following, version, flags)


async def test_only_what_is_newer_is_read(database: Database) -> None:
    await store(database, [row(1, 5), row(2, 6), row(3, 6), row(4, 7)])
    assert [got[0] for got in (await read(database, 5))[0]] == [2, 3, 4]
    assert await read(database, 7) == ([], await no_parts(database))
    async with database.watching() as session:
        assert await device_feed.newest(session) == (7, 4)


async def no_parts(database: Database) -> list[int]:
    """PostgreSQL's answer has a part even where no row is in it."""
    return [0] if database.backend == "postgresql" else []


async def test_an_empty_database_has_nothing_new(database: Database) -> None:
    async with database.watching() as session:
        assert await device_feed.newest(session) == (0, 0)
    assert (await read(database, -1))[0] == []


async def test_many_rows_come_in_small_parts(database: Database) -> None:
    count = 12_000
    await store(database, [row(number, number) for number in range(1, count + 1)])
    found, parts = await read(database, 0)
    assert [got[0] for got in found] == list(range(1, count + 1))
    assert len(parts) > 2, "others have their turn in between"


@pytest.mark.parametrize(
    "damage",
    [{"id": "d-00"}, {"token_sha256": "abcd"}, {"next_token_sha256": "0011"}, {"token_sha256": "no hex.." * 8}],
)
async def test_a_row_of_another_size_is_refused_before_it_is_believed(
    database: Database, damage: dict[str, str]
) -> None:
    """Bytes of one device must never be read as another's."""
    stored = [row(number, number) for number in range(1, 4)]
    await store(database, stored)
    whole, _ = await read(database, 0)
    for changes in (damage, {name: stored[1][name] for name in damage}):
        async with database.writer.begin() as connection:
            await connection.execute(update(Device).where(col(Device.number) == 2).values(**changes))
            # PostgreSQL reads rows in the order in which they were last written: the third comes behind it.
            await connection.execute(update(Device).where(col(Device.number) == 3).values(hardware="rpi5"))
        believed: list[DeviceRow] = []
        if changes is damage:
            with pytest.raises((RuntimeError, ValueError, asyncpg.DataError)):
                async with database.watching() as session:
                    await device_feed.newest(session)
                    await device_feed.changed_since(database, session, 0, believed.extend)
            assert believed in ([], whole[:1]), "what came before it may have been"
    assert (await read(database, 0))[0] == whole, "the connection is as good as before"

"""Devices as the poll's memory wants them: few columns of many rows, past SQLAlchemy, straight from the driver.

A row that SQLAlchemy makes costs four microseconds; here it costs less than one, which is what decides how soon a hub
with a million devices is ready. PostgreSQL sends rows of one fixed size (`COPY ... (FORMAT binary)`), which `struct`
takes apart; SQLite's rows come in parts, and one call turns the hexadecimal of a whole part into bytes.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sdx_hub.persistence.database import Database

DeviceRow = tuple[int, bytes, bytes, bytes, int, int]
"""Number, raw id (10 bytes), starts (15 bytes) of the token's hash and of the next one's, version, flags.

The next token's is zeros where there is none; the version is `PENDING` or `REVOKED` for a device that is."""

Take = Callable[[Iterable[DeviceRow]], None]

PENDING, REVOKED = -1, -2
"""Stand in for the desired version; real ones are not negative."""
ASSIGNED, WANTS_INVENTORY, WANTS_TOKEN = 1, 2, 4
"""Flags."""

_PART_ROWS = 2_000
"""Some milliseconds of work, between which polls have their turn."""
_VERSION = f"CASE state WHEN 'accepted' THEN desired_version WHEN 'pending' THEN {PENDING} ELSE {REVOKED} END"
_FLAGS = (
    f"CASE WHEN has_assignment THEN {ASSIGNED} ELSE 0 END + CASE WHEN has_inventory THEN 0 ELSE {WANTS_INVENTORY} END"
    f" + CASE WHEN rotation_wanted THEN {WANTS_TOKEN} ELSE 0 END"
)
_ID, _TOKEN = "substr(id, 3, 20)", "substr(token_sha256, 1, 30)"
_NEXT = f"coalesce(substr(next_token_sha256, 1, 30), '{'0' * 30}')"


async def newest(session: AsyncSession) -> tuple[int, int]:
    """The largest `change_seq` and the largest `number` of a device; zeros where there is none."""
    found = await session.execute(
        text("SELECT coalesce((SELECT max(change_seq) FROM device), 0), coalesce((SELECT max(number) FROM device), 0)")
    )
    seq, number = found.one()
    return int(seq), int(number)


async def changed_since(database: Database, session: AsyncSession, seq: int, take: Take) -> int:
    """Hand over every device with a larger `change_seq`, in parts and in no order, and return how many there were.

    Raises:
        RuntimeError: A row has another size than all rows have: ids or hashes were changed behind the hub's back.
    """
    connection = await session.connection()
    driver: Any = (await connection.get_raw_connection()).driver_connection
    if database.backend == "sqlite":
        return await _read_sqlite(driver, seq, take)
    try:
        return await _read_postgresql(driver, seq, take)
    except BaseException:
        # In the middle of a COPY, and SQLAlchemy does not know: nobody can use this connection any more.
        driver.terminate()
        await connection.invalidate()
        raise


_COPIED = (
    f"SELECT number, decode({_ID}, 'hex'), decode({_TOKEN}, 'hex'), decode({_NEXT}, 'hex'), "  # noqa: S608
    f"{_VERSION}, ({_FLAGS})::int2 FROM device WHERE change_seq > {{}}"
)
_NEVER_S = 86400.0
_COPY_HEAD_BYTES, _COPY_TAIL = 19, b"\xff\xff"
_COPY_ROW = Struct(">2x4xq4x10s4x15s4x15s4xq4xh")
"""Number of fields, then each field behind its length (PostgreSQL documentation, COPY, "Binary Format")."""
_FRAME = Struct(">hi8xi10xi15xi15xi8xi2x").pack(6, 8, 10, 15, 15, 8, 2)
_FRAME_PLACES = [place for place, byte in enumerate(Struct(">hi8xi10xi15xi15xi8xi2x").pack(-1, *[-1] * 6)) if byte]
"""Where a row has the same bytes as every other row: the number of fields, and their lengths."""


async def _read_postgresql(driver: Any, seq: int, take: Take) -> int:
    rest, head = b"", _COPY_HEAD_BYTES

    async def part(data: bytes) -> None:
        nonlocal rest, head
        data = rest + data
        start = head if len(data) >= head else 0
        head -= start
        end = start + (0 if head else (len(data) - start) // _COPY_ROW.size * _COPY_ROW.size)
        rows, rest = data[start:end], data[end:]
        _check_frames(rows)
        take(_COPY_ROW.iter_unpack(rows))
        await asyncio.sleep(0)

    # As long as it takes: whoever called gives up where nothing comes, not where much does.
    await driver.execute("SET LOCAL statement_timeout = 0")
    status = await driver.copy_from_query(_COPIED.format(seq), output=part, format="binary", timeout=_NEVER_S)
    _check(rest == _COPY_TAIL)
    return int(status.rpartition(" ")[2])


def _check_frames(rows: bytes) -> None:
    # Before any is believed: a row that is shorter would have the next ones read out of each other's bytes.
    count = len(rows) // _COPY_ROW.size
    _check(all(rows[place :: _COPY_ROW.size] == _FRAME[place : place + 1] * count for place in _FRAME_PLACES))


_SELECT = f"SELECT number, {_ID} || {_TOKEN} || {_NEXT}, {_VERSION}, {_FLAGS} FROM device WHERE change_seq > ?"  # noqa: S608
_KEYS = Struct("10s15s15s")


async def _read_sqlite(driver: Any, seq: int, take: Take) -> int:
    count = 0
    async with driver.execute(_SELECT, (seq,)) as cursor:
        while rows := await cursor.fetchmany(_PART_ROWS):
            take(_from_hexadecimal(rows))
            count += len(rows)
    return count


def _from_hexadecimal(rows: list[tuple[int, str, int, int]]) -> Iterator[DeviceRow]:
    keys = bytes.fromhex("".join(row[1] for row in rows))
    _check(len(keys) == len(rows) * _KEYS.size)
    for (number, _, version, flags), (identity, token, following) in zip(rows, _KEYS.iter_unpack(keys), strict=True):
        yield number, identity, token, following, version, flags


def _check(fits: bool) -> None:
    if not fits:
        raise RuntimeError("A device's id or token hash has another size than the hub gives them.")

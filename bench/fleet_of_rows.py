"""A million devices without a million enrolments: one device enrols for real, and its rows are multiplied in bulk.

So the rows are what enrolment and a first inventory leave, except for what makes each device itself, which follows
from its index: key, id, serial, token. The keys are no points of the curve and the inventories carry the first one's
signature: nothing that is measured upon these rows verifies them. Timelines, receipts and the audit log hold the first
device only.
"""

import asyncio
import base64
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import make_url

from bench.fleet_of_keys import Device, enrol
from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, DEVICE_NUMBER_COUNTER
from sdx_hub.services.devices.enrolment import device_id_of
from tests.support.craft import HARDWARE
from tests.support.fleet import Fleet

GROUPS = 10
"""Each device has the tag `group-N`, N being its index modulo this: a tag selects a tenth of the fleet."""
TOKEN_FORMAT = f"{DEVICE_TOKEN_PREFIX}%043d".encode()
"""Of a device's index; as long as a real one."""
_CHUNK = 50_000
_CACHE_KIB = 1 << 20
_TABLES = {
    "device": "id",
    "device_tag": "device_id",
    "device_inventory": "device_id",
    "installed_component": "device_id",
}
"""And the column that names the device."""
_Row = dict[str, Any]


def device(index: int) -> Device:
    """One of them, by its index from 0."""
    return Device(device_id_of(_key(index)), (TOKEN_FORMAT % index).decode())


def tag(index: int) -> str:
    return f"group-{index % GROUPS}"


def enrol_first(fleet: Fleet) -> Device:
    """Enrol the device whose rows are multiplied; it is none of those that `device` gives."""
    first = enrol(fleet.url, fleet.admin_token, 1, HARDWARE)[0]
    with fleet.client() as client:
        client.put(f"/api/v1/devices/{first.id}/tags/{tag(0)}").raise_for_status()
    return first


def load(database_url: str, example: Device, first: int, count: int) -> None:
    """Multiply the rows of `example`, of a hub that has `first` of these devices already.

    Args:
        database_url: The hub's; the hub itself may be running.
        example: See `enrol_first`.
        first: Index of the first new device.
        count: How many.
    """
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        _load_sqlite(Path(url.database or ""), example, range(first, first + count))
    else:
        dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        asyncio.run(_load_postgres(dsn, example, range(first, first + count)))


async def _load_postgres(dsn: str, example: Device, indices: range) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        examples = {
            table: dict(await connection.fetchrow(f"SELECT * FROM {table} WHERE {column} = $1", example.id))  # noqa: S608
            for table, column in _TABLES.items()
        }
        counters = {row["name"]: row["value"] for row in await connection.fetch("SELECT name, value FROM counter")}
        made_again = await _without_indexes(connection)
        for part, rows in _copies(examples, counters, indices):
            async with connection.transaction():
                for table, values in rows.items():
                    await connection.copy_records_to_table(table, records=values, columns=list(examples[table]))
                await connection.execute(f"UPDATE counter SET value = value + {len(part)} WHERE name {_COUNTED}")  # noqa: S608
        for statement in made_again:
            await connection.execute(statement)
        # The server would do it by itself a little later, in the middle of what is measured.
        await connection.execute(f"VACUUM (ANALYZE) {', '.join(_TABLES)}")
    finally:
        await connection.close()


async def _without_indexes(connection: Any) -> list[str]:
    """Drop all but the primary keys, for the time of the load; return what makes them again."""
    found = await connection.fetch(_INDEXES, list(_TABLES))
    for row in found:
        await connection.execute(row["dropped"])
    return [row["made"] for row in reversed(found)]


_INDEXES = """
    WITH own AS (SELECT * FROM pg_constraint WHERE conrelid = ANY($1::regclass[]) AND contype = 'u'),
    dropped AS (
        SELECT * FROM own UNION
        SELECT * FROM pg_constraint WHERE contype = 'f'
            AND (conrelid = ANY($1::regclass[]) OR conindid IN (SELECT conindid FROM own))
    )
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS dropped,
        format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS made,
        contype = 'f' AS rests_on_others
    FROM dropped
    UNION ALL
    SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid), false
    FROM pg_index WHERE indrelid = ANY($1::regclass[])
        AND indexrelid NOT IN (SELECT conindid FROM pg_constraint WHERE contype IN ('p', 'u'))
    ORDER BY rests_on_others DESC
"""
"""Foreign keys come first, and are made again last: also those of other tables that rest on a unique constraint."""


def _load_sqlite(file: Path, example: Device, indices: range) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        # Keys come in no order, so that every index is touched everywhere; and a load that fails is done again.
        connection.executescript(f"PRAGMA cache_size = -{_CACHE_KIB}; PRAGMA synchronous = OFF")
        examples = {
            table: dict(connection.execute(f"SELECT * FROM {table} WHERE {column} = ?", (example.id,)).fetchone())  # noqa: S608
            for table, column in _TABLES.items()
        }
        counters = dict(iter(connection.execute("SELECT name, value FROM counter")))
        for part, rows in _copies(examples, counters, indices):
            with connection:
                for table, values in rows.items():
                    columns = list(examples[table])
                    marks = ", ".join("?" * len(columns))
                    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", values)  # noqa: S608
                connection.execute(f"UPDATE counter SET value = value + {len(part)} WHERE name {_COUNTED}")  # noqa: S608
        connection.execute("ANALYZE")


_COUNTED = f"IN ('{DEVICE_NUMBER_COUNTER}', '{DEVICE_CHANGE_COUNTER}')"


def _copies(
    examples: Mapping[str, _Row], counters: Mapping[str, int], indices: range
) -> Iterator[tuple[range, dict[str, Iterable[Sequence[Any]]]]]:
    """In parts that are one transaction each: the rows of each table, their columns in the example's order."""
    number, change = (counters[name] + 1 - indices.start for name in (DEVICE_NUMBER_COUNTER, DEVICE_CHANGE_COUNTER))
    old_id = examples["device"]["id"]
    old_payload = base64.b64decode(examples["device_inventory"]["payload"])
    for start in range(0, len(indices), _CHUNK):
        part = indices[start : start + _CHUNK]
        keys = [_key(index) for index in part]
        ids = [device_id_of(key) for key in keys]
        serials = [f"craft-{index:07}" for index in part]
        tokens = [hashlib.sha256(TOKEN_FORMAT % index).hexdigest() for index in part]
        payloads = [
            base64.b64encode(old_payload.replace(old_id.encode(), identity.encode())).decode() for identity in ids
        ]
        own: dict[str, dict[str, Iterable[Any]]] = {
            "device": {
                "id": ids,
                "device_key": keys,
                "serial": serials,
                "token_sha256": tokens,
                "number": (number + index for index in part),
                "change_seq": (change + index for index in part),
            },
            "device_tag": {"device_id": ids, "tag": (tag(index) for index in part)},
            "device_inventory": {"device_id": ids, "payload": payloads},
            "installed_component": {"device_id": ids},
        }
        yield part, {table: _rows(examples[table], own[table], len(part)) for table in _TABLES}


def _rows(example: _Row, own: Mapping[str, Iterable[Any]], count: int) -> Iterable[Sequence[Any]]:
    return zip(*(own.get(column, [value] * count) for column, value in example.items()), strict=True)


def _key(index: int) -> str:
    return hashlib.sha256(b"craft %d" % index).hexdigest()

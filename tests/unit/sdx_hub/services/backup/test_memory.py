"""Neither way needs more memory for a larger hub: rows, payloads and the file are streams."""

import hashlib
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import insert

from sdx_hub import migrations
from sdx_hub.persistence.tables.idempotency import IdempotentRequest
from sdx_hub.services.backup import write_backup
from tests.unit.sdx_hub.services.backup.places import NOON, Places, restore

ROWS, ROW_BYTES = 10_000, 4_000
PAYLOAD_BYTES = 40_000_000
BOUND_BYTES = 12_000_000
"""A few pieces of rows as objects; less than a third of the rows, and of the payload."""


@contextmanager
def bounded() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < BOUND_BYTES
    finally:
        tracemalloc.stop()


async def test_memory_does_not_grow_with_the_hub(new_place: Places, tmp_path: Path) -> None:
    before, after = await new_place("sqlite"), await new_place("sqlite")
    await migrations.upgrade(before.database)
    noise = os.urandom(ROW_BYTES)
    async with before.database.writer.begin() as connection:
        for start in range(0, ROWS, 1000):
            batch = [
                {"id": f"{number}", "request_sha256": "", "answer": noise, "created_at": NOON}
                for number in range(start, start + 1000)
            ]
            await connection.execute(insert(IdempotentRequest), batch)
    payload = os.urandom(PAYLOAD_BYTES)
    source = before.storage.scratch.path()
    source.write_bytes(payload)
    await before.storage.blobs.put(hashlib.sha256(payload).hexdigest(), "identity", source)
    with bounded():
        await write_backup(before, tmp_path / "file", NOON)
    with bounded():
        assert (await restore(tmp_path / "file", after)).rows == ROWS

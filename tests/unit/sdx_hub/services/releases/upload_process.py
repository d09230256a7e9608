"""Run by `test_uploads_killed`: uploads one payload, and says each answer on stdout as the hub would give it."""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from sqlmodel import SQLModel

import sdx_hub.persistence.tables  # noqa: F401 - fills the metadata
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.adapters.storage import Storage
from sdx_hub.domain.access import Principal, Role
from sdx_hub.persistence.database import Database
from sdx_hub.services.releases.uploads import UploadService

PIECE = 128 * 1024
PUBLISHER = Principal("paul", Role.PUBLISHER)


async def run(folder: Path) -> None:
    raw = (folder / "payload").read_bytes()
    database = await Database.open(f"sqlite+aiosqlite:///{folder / 'hub.db'}")
    async with database.writer.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    storage = Storage(str(folder / "blobs"), "", "", folder / "uploads")
    uploads = UploadService(database, SystemClock(), storage)
    await uploads.sweep()
    begun = await uploads.begin(PUBLISHER, hashlib.sha256(raw).hexdigest(), len(raw), "identity", len(raw))
    say(f"begun {begun.exists} {begun.offset}")
    offset, complete = begun.offset, begun.exists

    async def piece() -> AsyncIterator[bytes]:
        yield raw[offset : offset + PIECE]

    while not complete:
        done = await uploads.append(PUBLISHER, begun.id, offset, piece())
        offset, complete = done.offset, done.complete
        say(f"offset {offset}")
    say("complete")
    await database.close()


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


asyncio.run(run(Path(sys.argv[1])))

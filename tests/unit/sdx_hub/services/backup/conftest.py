"""Places for a hub, with a database of each kind."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sdx_hub.adapters.storage import Storage
from sdx_hub.persistence.database import Database
from sdx_hub.services.backup import Place
from tests.support.postgres import Databases
from tests.unit.sdx_hub.services.backup.places import Places


@pytest.fixture
async def new_place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Places]:
    """Makes a place by the name of its database's kind; its database has no tables."""
    async with AsyncExitStack() as at_end:
        made = 0

        async def make(backend: str) -> Place:
            nonlocal made
            made += 1
            data = tmp_path / f"place-{made}"
            data.mkdir()
            url = f"sqlite+aiosqlite:///{data / 'hub.db'}"
            if backend == "postgresql":
                databases: Databases = request.getfixturevalue("databases")
                url = databases.new()
                at_end.callback(databases.drop, url)
            database = await Database.open(url)
            at_end.push_async_callback(database.close)
            storage = Storage(str(data / "blobs"), "", "", data / "uploads")
            return Place(data, data / "online", database, storage)

        yield make

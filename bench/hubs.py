"""Hubs upon PostgreSQL as the measurements need them: one ceremony, one database, any number of replicas."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdx_hub.demo.servers.postgres import PostgresServer
from tests.support.fleet import Fleet, start_fleet
from tests.support.hub import HubProcess

SETTINGS = {"SDX_POLL_INTERVAL_S": "60", "SDX_POLL_JITTER_S": "15", "SDX_FLEET_REFRESH_MS": "400"}
"""A real fleet's, and the defaults; tests have faster ones."""


@contextmanager
def postgres(folder: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL of our own: every commit is on the disk before it is acknowledged.

    Its settings are the defaults, except that a bulk load does not make it write checkpoints all the time.
    """
    server = PostgresServer(folder, {"max_wal_size": "8GB"})
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def fleet_on(path: Path, database_url: str) -> Iterator[Fleet]:
    """A hub with its ceremony, upon this database (SQLite of its own where it is empty)."""
    more = {"SDX_DATABASE_URL": database_url} if database_url else {}
    with start_fleet(path, **SETTINGS, **more) as fleet:
        yield fleet


@contextmanager
def another_replica(fleet: Fleet, folder: Path, database_url: str) -> Iterator[HubProcess]:
    """One more hub process upon the database, the keys and the payloads of a fleet's hub; not started yet."""
    folder.mkdir(parents=True)
    shared = {
        "SDX_DATABASE_URL": database_url,
        "SDX_KEYS_DIR": str(fleet.hub.data / "online"),
        "SDX_BLOB_URL": str(fleet.hub.data / "blobs"),
    }
    hub = HubProcess(folder / "hub", SETTINGS | shared)
    try:
        yield hub
    finally:
        hub.close()

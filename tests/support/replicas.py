"""Two hub processes upon one PostgreSQL, without a proxy: what rollouts are tried on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdx_hub.demo.servers.postgres import PostgresServer
from tests.support.fleet import FAST, Fleet, start_fleet
from tests.support.hub import HubProcess
from tests.support.postgres import IN_A_HURRY


@contextmanager
def two_replicas(folder: Path, **settings: str) -> Iterator[tuple[Fleet, list[HubProcess], str]]:
    """A fleet whose hub has a twin; both run.

    Args:
        folder: A new one.
        settings: More `SDX_*` settings of both.

    Yields:
        The fleet, both processes, and the database's URL.
    """
    database = PostgresServer(folder / "postgres", IN_A_HURRY)
    database.start()
    try:
        shared = settings | {"SDX_DATABASE_URL": database.url}
        with start_fleet(folder / "first", **shared) as fleet:
            data = folder / "second" / "hub"
            data.parent.mkdir(parents=True)
            theirs = {"SDX_KEYS_DIR": str(fleet.hub.data / "online"), "SDX_BLOB_URL": str(fleet.hub.data / "blobs")}
            twin = HubProcess(data, FAST | shared | theirs)
            twin.start()
            try:
                yield fleet, [fleet.hub, twin], database.url
            finally:
                twin.close()
    finally:
        database.stop("immediate")

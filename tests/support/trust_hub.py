"""A hub's trust services on a real database, with the people who hold its keys; and a TUF client that reads it."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.services.repositories.director import Director
from sdx_hub.services.repositories.hub_init import import_ceremony
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.trust.online import Lives, OnlineSigners
from tests.support.people import People, hold_ceremony


@dataclass
class TrustHub:
    """One worker, loaded.

    Attributes:
        data: The hub's data folder.
        people: Who hold the keys; two signatures of each role are enough.
    """

    database: Database
    clock: Clock
    data: Path
    people: People
    image: ImageRepository
    director: Director

    async def root(self, repository: str = "image") -> Root:
        raw = await (self.image.newest("root") if repository == "image" else self.director.newest_root())
        return Metadata[Root].from_bytes(raw).signed

    async def targets(self, role: str = "targets") -> Targets:
        return Metadata[Targets].from_bytes(await self.image.newest(role)).signed

    async def signed(self, role: str) -> Any:
        """The newest signed part of any role of the image repository."""
        return Metadata[Any].from_bytes(await self.image.newest(role)).signed

    async def another_worker(self, database: Database | None = None) -> "TrustHub":
        """A second process, as far as memory goes."""
        return await start_worker(database or self.database, self.clock, self.data, self.people)


async def start_trust_hub(database: Database, clock: Clock, folder: Path, *teams: str) -> TrustHub:
    """Hold a ceremony, initialise the hub, load its services."""
    people = hold_ceremony(folder / "ceremony", clock.now(), *teams)
    await import_ceremony(database, clock, people.folder, folder / "data" / "online")
    return await start_worker(database, clock, folder / "data", people)


async def start_worker(database: Database, clock: Clock, data: Path, people: People) -> TrustHub:
    signers = OnlineSigners(data / "online")
    image = ImageRepository(database, clock, signers, Lives())
    director = Director(database, clock, signers, Lives(), image)
    await image.load()
    await director.load()
    return TrustHub(database, clock, data, people, image, director)


class _Fetcher(FetcherInterface):
    """Reads the services as if they were a web server; the client runs in a thread."""

    def __init__(self, image: ImageRepository, loop: asyncio.AbstractEventLoop) -> None:
        self._image = image
        self._loop = loop

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        try:
            return iter([asyncio.run_coroutine_threadsafe(self._image.file(name), self._loop).result(30)])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error


async def refresh_client(hub: TrustHub, folder: Path, bootstrap: bytes, path: str = "") -> tuple[Updater, Any]:
    """Run a plain python-tuf client from `bootstrap`, and look a target up."""
    loop = asyncio.get_running_loop()
    folder.mkdir(exist_ok=True)

    def work() -> tuple[Updater, Any]:
        updater = Updater(
            str(folder), "https://hub.invalid/metadata/", fetcher=_Fetcher(hub.image, loop), bootstrap=bootstrap
        )
        updater.refresh()
        return updater, updater.get_targetinfo(path) if path else None

    return await asyncio.to_thread(work)

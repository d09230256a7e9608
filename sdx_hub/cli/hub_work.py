"""What the commands of `sdx hub` do: each opens the database, does one thing, and closes it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlmodel import col

from sdx_hub import migrations
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.adapters.storage import Storage
from sdx_hub.domain.access import Principal, Role
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.trust import OnlineKey
from sdx_hub.services import backup as backups
from sdx_hub.services.backup import Place, Progress, Summary, read_backup, write_backup
from sdx_hub.services.people import INSTALLER, PeopleService
from sdx_hub.settings import Settings

KEEPER = Principal("hub-keeper", Role.ADMIN)
"""Who acts when somebody with access to the data folder uses `sdx hub token`."""
T = TypeVar("T")


@asynccontextmanager
async def opened(settings: Settings, *, upgrade: bool = True) -> AsyncIterator[Database]:
    """The database of a hub that exists.

    Args:
        settings: Of the hub.
        upgrade: Bring it to this program's version first.

    Raises:
        ConflictError: There is none (code `hub_not_initialised`), or a newer program made it (`database_newer`).
        Unavailable: It cannot be reached, or lets nobody in (code `database_unavailable`).
    """
    if (file := sqlite_file(settings)) is not None and not file.exists():
        raise not_initialised(settings)
    database = await Database.open(settings.database)
    try:
        if (await migrations.state(database))[0] == "new":
            raise not_initialised(settings)
        if upgrade:
            await migrations.upgrade(database)
        yield database
    finally:
        await database.close()


def sqlite_file(settings: Settings) -> Path | None:
    """Where the database is, if it is a file."""
    url = make_url(settings.database)
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


async def storage_of(settings: Settings) -> Storage:
    """Where the hub's payloads are.

    Raises:
        BadInput: The store refuses us; see `Storage.check`.
    """
    storage = Storage(settings.blobs, settings.blob_key_id, settings.blob_secret, settings.uploads_dir)
    await storage.check()
    return storage


def not_initialised(settings: Settings) -> ConflictError:
    return ConflictError(
        f"{settings.data_dir} holds no hub that has had its key ceremony. Hold one (sdx keys ceremony FOLDER), then: "
        f"sdx hub init --data {settings.data_dir} --ceremony FOLDER.",
        "hub_not_initialised",
    )


async def prepare(settings: Settings) -> None:
    """Bring the database up to date before the hub is served.

    Raises:
        ConflictError: No ceremony was imported (code `hub_not_initialised`), or `database_newer`.
    """
    async with opened(settings) as database, database.reading() as session:
        if (await session.execute(select(col(OnlineKey.keyid)).limit(1))).first() is None:
            raise not_initialised(settings)


async def migrate(settings: Settings) -> str:
    """Bring the database to `HEAD`; return the version that it was at."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = await Database.open(settings.database)
    try:
        return await migrations.upgrade(database)
    finally:
        await database.close()


async def initialise(settings: Settings, ceremony: Path, admin: str, life: timedelta) -> dict[str, str]:
    """Make a hub out of a ceremony.

    Returns:
        The digests of the two roots, and the first admin token.

    Raises:
        ConflictError: This hub has been initialised (code `hub_initialised`).
        BadInput, TrustError: The ceremony or the name is refused; then there is still no hub.
    """
    from sdx_hub.services.repositories.hub_init import import_ceremony

    await migrate(settings)
    clock = SystemClock()
    database = await Database.open(settings.database, clock)
    try:
        made = await import_ceremony(database, clock, ceremony, settings.online_dir)
        token = await PeopleService(database, clock).new_token(INSTALLER, admin, Role.ADMIN, life)
    finally:
        await database.close()
    return msgspec.structs.asdict(made) | {"admin": admin, "admin_token": token.token, "data": str(settings.data_dir)}


async def with_people(settings: Settings, act: Callable[[PeopleService, Principal], Awaitable[T]]) -> T:
    """Do something to the tokens of people, in the name of whoever keeps the hub."""
    async with opened(settings) as database:
        return await act(PeopleService(database, SystemClock()), KEEPER)


async def backup(settings: Settings, file: Path, now: datetime, progress: Progress) -> Summary:
    """Copy the hub into one file; see `write_backup`."""
    async with opened(settings, upgrade=False) as database:
        place = Place(settings.data_dir, settings.online_dir, database, await storage_of(settings))
        return await write_backup(place, file, now, progress)


async def restore(settings: Settings, file: Path, progress: Progress) -> Summary:
    """Bring a backup to the place that the settings name; see `read_backup`.

    Raises:
        ConflictError: Something is there already (code `folder_not_empty` or `database_not_empty`).
    """
    with backups.opened(file, progress) as checked, _taken_back_on_failure(settings):
        backups.require_free(settings.data_dir, settings.online_dir, checked)
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        clock = SystemClock()
        database = await Database.open(settings.database, clock)
        try:
            place = Place(settings.data_dir, settings.online_dir, database, await storage_of(settings))
            return await read_backup(checked, place, clock, progress)
        finally:
            await database.close()


@contextmanager
def _taken_back_on_failure(settings: Settings) -> Iterator[None]:
    """Remove the database's file and the empty folders that a failed restore has made."""
    database = sqlite_file(settings)
    files = [Path(f"{database}{suffix}") for suffix in ("", "-wal", "-shm")] if database else []
    folders = [settings.data_dir / "blobs", settings.uploads_dir, settings.online_dir, settings.data_dir]
    new = [path for path in (*files, *folders) if not path.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):
                path.rmdir() if path in folders else path.unlink()
        raise

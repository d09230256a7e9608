"""What the commands of `sdx hub` do: each opens the database, does one thing, and closes it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlmodel import col

from sdx_hub import migrations
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.domain.access import Principal, Role
from sdx_hub.domain.errors import BadInput, ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.trust import OnlineKey
from sdx_hub.services.backup import Summary, write_backup
from sdx_hub.services.people import INSTALLER, PeopleService
from sdx_hub.settings import Settings

KEEPER = Principal("hub-keeper", Role.ADMIN)
"""Who acts when somebody with access to the data folder uses `sdx hub token`."""
T = TypeVar("T")


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The database of a hub that exists, at this program's version.

    Raises:
        ConflictError: There is none (code `hub_not_initialised`), or a newer program made it (`database_newer`).
    """
    if not settings.database_url and not (settings.data_dir / "hub.db").exists():
        raise not_initialised(settings)
    database = await Database.open(settings.database)
    try:
        await migrations.upgrade(database)
        yield database
    finally:
        await database.close()


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


def backup(settings: Settings, file: Path, now: datetime) -> Summary:
    """Copy the hub into one file.

    Raises:
        BadInput: The database is not in the data folder (code `backup_database_external`).
    """
    if make_url(settings.database).get_backend_name() != "sqlite" or settings.database_url:
        raise BadInput(
            "The database of this hub is a server's: back it up with its own tool (pg_dump), at the same time as the "
            f"payloads in {settings.blobs} and the folder {settings.online_dir}.",
            "backup_database_external",
        )
    return write_backup(settings.data_dir, file, now)

"""A hub's first steps, and its new keys: both happen on the hub's own machine, because private keys do not travel."""

import asyncio
import json
from pathlib import Path

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.trust import MetadataFile, OnlineKey
from sdx_hub.services.repositories import metadata_store as rows
from sdx_hub.services.repositories.image_sealing import seal
from sdx_hub.trust import handover, keys
from sdx_hub.trust.keys import PublicKey
from sdx_hub.trust.online import DIRECTOR, Lives, OnlineKeyInfo, OnlineSigners


class Initialised(Struct, frozen=True):
    """SHA-256 of the roots that devices are told to trust."""

    image_root_sha256: str
    director_root_sha256: str


async def import_ceremony(
    database: Database, clock: Clock, ceremony: Path, online: Path, lives: Lives | None = None
) -> Initialised:
    """Take over what a ceremony made, and sign the first snapshot and timestamp; all or nothing.

    Args:
        database: With the tables.
        clock: Start of the expiries.
        ceremony: The folder that `sdx keys ceremony` made, with every signature that was missing.
        online: Folder of the hub's own keys; they are copied there, and should be deleted from `ceremony` afterwards.
        lives: The defaults where None; a running hub soon signs anew where its own are shorter.

    Raises:
        ConflictError: This hub has roots already (code `hub_initialised`), or another key under the same name
            (`key_exists`).
        BadInput, TrustError, Unavailable: The folder is refused; see `handover.read_ceremony`.
    """
    taken = await asyncio.to_thread(handover.read_ceremony, ceremony, clock.now())
    async with database.unit_of_work() as uow:
        await rows.begin_change(uow)
        if await _is_initialised(uow.session):
            raise ConflictError(
                "This hub has been initialised already: its devices trust its roots. Rotate keys with `sdx keys "
                "rotate`, or take another data folder for another hub.",
                "hub_initialised",
            )
        # Before the commit, because a hub without its keys is worth nothing; keys without a hub do no harm.
        await asyncio.to_thread(handover.install_keys, taken.key_files, online)
        signers = OnlineSigners(online)
        signers.learn(taken.online)
        for info in taken.online:
            uow.session.add(_row(info))
        now = clock.now()
        root = taken.director_root
        rows.add(uow.session, DIRECTOR, "root", signed=root.signed, raw=root.raw, now=now)
        await seal(uow.session, signers, lives or Lives(), now, taken.image)
        made = Initialised(rows.sha256(taken.image_root.raw), rows.sha256(root.raw))
        await uow.audit(
            "hub", "hub.init", "hub", image_root=made.image_root_sha256, director_root=made.director_root_sha256
        )
        await uow.commit()
    return made


async def add_online_key(database: Database, online: Path, repository: str, role: str) -> PublicKey:
    """Make a new online key, which signs nothing before a root names it.

    The public part goes into the next root (`rotation.next_root`); once people have signed and pushed that root, the
    hub signs with the new key.

    Args:
        database: Of the hub, which may be running meanwhile.
        online: Folder of the hub's own keys.
        repository: `image` or `director`.
        role: `snapshot`, `timestamp`, or the director's `targets`.

    Raises:
        BadInput: There is no such online role (code `role_unknown`).
        ConflictError: This hub has no roots yet (code `hub_not_initialised`).
    """
    async with database.unit_of_work() as uow:
        if not await _is_initialised(uow.session):
            raise ConflictError("This hub has no keys yet. First: sdx hub init.", "hub_not_initialised")
        await rows.begin_change(uow)
        info = await asyncio.to_thread(handover.make_key, online, repository, role)
        uow.session.add(_row(info))
        await uow.audit("hub", "online_key.create", f"{repository}/{role}", keyid=info.key.keyid)
        await uow.commit()
    return PublicKey(keys.owner_of(info.key), info.key)


async def _is_initialised(session: AsyncSession) -> bool:
    return await session.scalar(select(col(MetadataFile.version)).limit(1)) is not None


def _row(info: OnlineKeyInfo) -> OnlineKey:
    return OnlineKey(
        repository=info.repository,
        role=info.role,
        keyid=info.key.keyid,
        uri=info.uri,
        key=json.dumps(info.key.to_dict(), sort_keys=True),
    )

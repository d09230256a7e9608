"""`sdx hub doctor`: everything that a hub must be able to rely on, looked at without changing anything.

Each check stands alone: one that fails does not hide what the others find.
"""

import hashlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from sqlalchemy import select
from sqlmodel import col
from tuf.api.metadata import Metadata, Root, Targets

from firmware_schemas.errors import SchemaError
from firmware_schemas.limits import MAX_PAYLOAD_BYTES
from firmware_schemas.release import decode_manifest, encode_manifest
from sdx_hub import migrations
from sdx_hub.adapters.blobs import ENCODINGS, BlobStore
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.cli.failures import FAILED, OK, REFUSED
from sdx_hub.cli.hub_work import opened, storage_of
from sdx_hub.domain.errors import HubError, NotFound, TrustError, Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.trust import MetadataFile
from sdx_hub.services.audit_log import verify_chain
from sdx_hub.services.repositories.director import Director
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.services.repositories.trust_alarms import expiries
from sdx_hub.settings import Settings
from sdx_hub.trust import verification
from sdx_hub.trust.online import DIRECTOR, IMAGE, Lives, OnlineSigners

_OPEN_BITS = 0o077


class Finding(Struct, frozen=True):
    """What one check saw.

    Attributes:
        warning: It is not well, but nothing is broken yet.
        code: Stable, where it is not well.
        refused: It is a matter of trust: exit code 5.
    """

    check: str
    ok: bool
    detail: str
    code: str = ""
    warning: bool = False
    refused: bool = False


async def examine(settings: Settings) -> list[Finding]:
    """Look at a hub, which may be running meanwhile.

    Raises:
        ConflictError: There is none (code `hub_not_initialised`).
        Unavailable: Its database cannot be reached (code `database_unavailable`).
    """
    async with opened(settings, upgrade=False) as database:
        schema = await _schema(database)
        if not schema.ok:
            return [schema]
        doctor = _Doctor(settings, database)
        checks: list[tuple[str, Callable[[], Awaitable[str | Finding]]]] = [
            ("audit log", doctor.audit_log),
            ("image repository", doctor.image_signatures),
            ("director root", doctor.director_root),
            ("online keys", doctor.online_keys),
            ("payloads", doctor.payloads),
            ("expiry", doctor.expiry),
        ]
        return [schema, *[await _guarded(name, check) for name, check in checks]]


def exit_code(findings: list[Finding]) -> int:
    """What the command ends with: warnings are no failure, and a matter of trust weighs most."""
    bad = [each for each in findings if not each.ok and not each.warning]
    if any(each.refused for each in bad):
        return REFUSED
    return FAILED if bad else OK


async def _guarded(name: str, check: Callable[[], Awaitable[str | Finding]]) -> Finding:
    try:
        found = await check()
    except TrustError as error:
        return Finding(name, False, str(error), error.code, refused=True)
    except (HubError, SchemaError) as error:
        return Finding(name, False, str(error), error.code)
    return found if isinstance(found, Finding) else Finding(name, True, found)


async def _schema(database: Database) -> Finding:
    how, version = await migrations.state(database)
    detail = f"version {version or '(none)'}"
    if how == "current":
        return Finding("database", True, detail)
    what_to_do = "install the newer sdx" if how == "newer" else "run `sdx hub migrate`"
    return Finding(
        "database", False, f"{detail}, this program wants {migrations.HEAD}: {what_to_do}.", f"database_{how}"
    )


class _Doctor:
    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._clock = SystemClock()
        self._signers = OnlineSigners(settings.online_dir)
        self._image = ImageRepository(database, self._clock, self._signers, Lives())

    async def audit_log(self) -> str:
        async with self._database.reading() as session:
            return f"{await verify_chain(session)} entries, unbroken"

    async def image_signatures(self) -> str:
        """Every role's newest metadata, by the keys of its delegator: as a client that comes today would check it."""
        await self._image.load()
        root = Metadata[Root].from_bytes(await self._image.newest("root")).signed
        signers: dict[str, Any] = {"root": root, "targets": root, "snapshot": root, "timestamp": root}
        targets = Metadata[Targets].from_bytes(await self._image.newest("targets")).signed
        signers |= dict.fromkeys(verification.delegated_roles(targets), targets)
        for role, delegator in signers.items():
            _require(delegator, role, await self._image.newest(role), IMAGE)
        return f"{len(signers)} roles, each signed by its threshold"

    async def director_root(self) -> str:
        async with self._database.reading() as session:
            raw = await session.scalar(
                select(col(MetadataFile.raw))
                .where(col(MetadataFile.repository) == DIRECTOR, col(MetadataFile.role) == "root")
                .order_by(col(MetadataFile.version).desc())
                .limit(1)
            )
        if raw is None:
            raise NotFound("There is no director root.", "metadata_not_found")
        metadata = Metadata.from_bytes(bytes(raw))
        _require(metadata.signed, "root", bytes(raw), DIRECTOR)
        return f"version {metadata.signed.version}, signed by its threshold"

    async def online_keys(self) -> str | Finding:
        """Every key that the roots name opens, and nobody but the hub can read its file."""
        await self._image.load()
        await Director(self._database, self._clock, self._signers, Lives(), self._image).load()
        self._signers.require_all(IMAGE, Metadata.from_bytes(await self._image.newest("root")).signed)
        readable = [path.name for path in _files(self._settings.online_dir) if path.stat().st_mode & _OPEN_BITS]
        if readable:
            detail = f"others can read {', '.join(readable)} in {self._settings.online_dir}: chmod 600."
            return Finding("online keys", False, detail, "online_key_exposed")
        folder = self._settings.online_dir
        if folder.is_dir() and folder.stat().st_mode & _OPEN_BITS:
            detail = f"all open; but others can look into {folder}: chmod 700."
            return Finding("online keys", False, detail, "online_keys_folder_open", warning=True)
        return "all open"

    async def payloads(self) -> str | Finding:
        """Every payload of every published release is here, whole."""
        async with self._database.reading() as session:
            raws = (await session.scalars(select(col(Release.manifest)).where(col(Release.state) == "published"))).all()
        wanted: dict[str, str] = {}
        for raw in raws:
            manifest = decode_manifest(bytes(raw))
            name = f"{manifest.product}@{manifest.version}"
            wanted[hashlib.sha256(encode_manifest(manifest)).hexdigest()] = name
            wanted |= dict.fromkeys((part.sha256 for part in manifest.components), name)
            wanted |= dict.fromkeys((document.sha256 for document in manifest.documents), name)
        blobs = (await storage_of(self._settings)).blobs
        missing, damaged = [], []
        for sha256, name in wanted.items():
            sizes = [await blobs.stat(sha256, encoding) for encoding in ENCODINGS]
            if None in sizes:
                missing.append(f"{sha256[:12]}... of {name}")
            elif await _digest(blobs, sha256) != sha256:
                damaged.append(f"{sha256[:12]}... of {name}")
        if missing or damaged:
            lost = "; ".join([f"missing: {each}" for each in missing] + [f"damaged: {each}" for each in damaged])
            return Finding("payloads", False, f"{lost}. Restore them from a backup.", "payload_missing")
        return f"{len(wanted)} of {len(raws)} published releases, whole"

    async def expiry(self) -> str | Finding:
        await self._image.load()
        now = self._clock.now()
        roles = expiries(self._image.store, now)
        expired = [each for each in roles if each.expired]
        late = [each for each in roles if each.half_life_passed]
        if expired:
            names = ", ".join(f"{each.repository}/{each.role}" for each in expired)
            raise Unavailable(f"Expired, clients refuse it: {names}. It must be signed anew.", "metadata_expired")
        if late:
            names = ", ".join(f"{each.repository}/{each.role} {_in(each.expires_at, now)}" for each in late)
            return Finding("expiry", False, f"past half of its life: {names}", "metadata_alarm", warning=True)
        return f"{len(roles)} roles; the first to expire is {roles[0].role}, {_in(roles[0].expires_at, now)}"


def _require(delegator: Root | Targets, role: str, raw: bytes, repository: str) -> None:
    metadata = Metadata[Any].from_bytes(raw)
    result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if not result.verified:
        raise TrustError(
            f"{repository}/{role} {metadata.signed.version} is not signed by its threshold: clients refuse it. Compare "
            "the database with the last backup.",
            "signature_invalid",
        )


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if path.is_file()]


async def _digest(blobs: BlobStore, sha256: str) -> str:
    hashed = hashlib.sha256()
    async for piece in blobs.read(sha256, "identity", 0, MAX_PAYLOAD_BYTES):
        hashed.update(piece)
    return hashed.hexdigest()


def _in(expires: datetime, now: datetime) -> str:
    hours = int((expires - now).total_seconds()) // 3600
    return f"in {hours} hours" if hours < 48 else f"in {hours // 24} days"

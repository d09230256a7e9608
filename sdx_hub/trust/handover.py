"""A ceremony's folder as the hub takes it over: each file verified, each online key opened, before any of it counts.

See `ceremony` for the folder's layout.
"""

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root, Targets

from firmware_schemas.limits import MAX_TARGETS_BYTES
from sdx_hub.domain.errors import BadInput, TrustError
from sdx_hub.trust import keys, verification
from sdx_hub.trust.ceremony import ONLINE_ROLES
from sdx_hub.trust.online import DIRECTOR, IMAGE, OnlineKeyInfo, OnlineSigners, file_of, open_online
from sdx_hub.trust.verification import Incoming, Verified

SIGNERS_FILE = "signers.json"


class Handover(Struct, frozen=True):
    """What a hub starts with.

    Attributes:
        image: The first root, targets and team metadata.
        online: The hub's keys, and the content of each key file by its name.
    """

    image: tuple[Verified[Root] | Verified[Targets], ...]
    director_root: Verified[Root]
    image_root: Verified[Root]
    online: tuple[OnlineKeyInfo, ...]
    key_files: Mapping[str, bytes]


def read_ceremony(folder: Path, now: datetime) -> Handover:
    """Read and verify a ceremony's folder.

    Raises:
        BadInput: A file is missing or malformed (code `ceremony_incomplete`).
        TrustError: A signature is missing (`below_threshold`), or a file is refused for another reason; see
            `verification`.
        ConflictError: The hub's keys are not those that the roots name (code `online_key_missing`).
        Unavailable: A key cannot be opened (code `online_key_unreadable`).
    """
    image_root = verification.verify_root(IMAGE, None, _file(folder, IMAGE, "root"), now)
    director_root = verification.verify_root(DIRECTOR, None, _file(folder, DIRECTOR, "root"), now)
    targets = verification.verify_targets(image_root.signed, None, _file(folder, IMAGE, "targets"), now)
    teams = [
        verification.verify_team(targets.signed, role, None, _file(folder, IMAGE, role), now)
        for role in verification.delegated_roles(targets.signed)
    ]
    for team in teams:
        if team.signed.targets:
            raise TrustError(f"The first metadata of {team.role} publishes something already.", "targets_changed")
    online = _online_keys(folder / "online")
    signers = OnlineSigners(folder / "online")
    signers.learn(online)
    signers.require_all(IMAGE, image_root.signed)
    signers.require_all(DIRECTOR, director_root.signed)
    names = [name for info in online if (name := file_of(info.uri)) is not None]
    files = {name: _read(folder / "online" / name) for name in names}
    return Handover((image_root, targets, *teams), director_root, image_root, online, files)


def install_keys(key_files: Mapping[str, bytes], folder: Path) -> None:
    """Copy online keys into the hub's folder, durably, for the hub's eyes only; the same file again changes nothing.

    Raises:
        ConflictError: There is another key under the name (code `key_exists`).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    present = {name for name, content in key_files.items() if _is_there(folder / name, content)}
    for name in key_files.keys() - present:
        keys.write_new(folder / name, key_files[name], 0o600)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_there(path: Path, content: bytes) -> bool:
    """Look at every file before the first is written: a refusal must not leave half of another hub's keys behind."""
    if not path.exists() and not path.is_symlink():
        return False
    if path.is_symlink() or path.read_bytes() != content:
        raise keys.exists_already(path)
    path.chmod(0o600)
    return True


def make_key(folder: Path, repository: str, role: str) -> OnlineKeyInfo:
    """Make a new online key in the hub's folder.

    Raises:
        BadInput: There is no such online role (code `role_unknown`).
    """
    if role not in ONLINE_ROLES.get(repository, ()):
        raise BadInput(
            f"{repository}/{role} is no role that the hub signs for: those are "
            f"{', '.join(f'{name}/{each}' for name, roles in ONLINE_ROLES.items() for each in roles)}.",
            "role_unknown",
        )
    private, public = keys.generate("hub")
    name = f"{repository}-{role}-{public.keyid[:16]}.key"
    install_keys({name: keys.plain_pem(private)}, folder)
    info = OnlineKeyInfo(repository, role, f"file2:{name}", public.key)
    open_online(info.uri, info.key, folder)
    return info


def _online_keys(folder: Path) -> tuple[OnlineKeyInfo, ...]:
    try:
        document = json.loads(_read(folder / SIGNERS_FILE))
        return tuple(_online_key(name, entry) for name, entry in document.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{folder / SIGNERS_FILE} is not valid: {error!r}.", "ceremony_incomplete") from error


def _online_key(name: str, entry: Mapping[str, Any]) -> OnlineKeyInfo:
    repository, _, role = name.partition("/")
    return OnlineKeyInfo(repository, role, entry["uri"], SSlibKey.from_dict(entry["keyid"], dict(entry["key"])))


def _file(folder: Path, repository: str, role: str) -> Incoming:
    path = folder / repository / f"1.{role}.json"
    return verification.read(_read(path), f"{repository}/{path.name}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TARGETS_BYTES + 1)
    except OSError as error:
        raise BadInput(
            f"Cannot read {path}: {error.strerror}. Name the folder that `sdx keys ceremony` made.",
            "ceremony_incomplete",
        ) from error
    return raw

"""The hub's own keys: snapshots, timestamps and the director's instructions are signed with nobody watching.

The root names the keys; this module finds the private part of each. A key that no root names (not yet, or no longer)
signs nothing, so that a key can be made before the root that brings it in, and stay after the one that takes it out.
"""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from securesystemslib.signer import CryptoSigner, Key, SecretsHandler, Signer, SSlibKey
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TrustError, Unavailable
from sdx_hub.trust.ceremony import ONLINE_ROLES

IMAGE: Final = "image"
DIRECTOR: Final = "director"
COMPACT = JSONSerializer(compact=True)
"""How everything that the hub signs is written."""

_FILE = f"{CryptoSigner.SCHEME}:"


class Lives(Struct, frozen=True):
    """How long what the hub signs is valid; the defaults are those of `trust.md`."""

    timestamp: timedelta = timedelta(days=1)
    snapshot: timedelta = timedelta(days=7)
    director: timedelta = timedelta(days=1)


class OnlineKeyInfo(Struct, frozen=True):
    """Where a key of the hub is.

    Attributes:
        uri: Signer URI; the path of a `file2:` one is relative to the folder of online keys.
    """

    repository: str
    role: str
    uri: str
    key: SSlibKey


class OnlineSigners:
    """The signers of the hub's keys, opened when they are first needed.

    Args:
        folder: Of the private key files.
        secrets: Asked for the PIN of a hardware key.
    """

    def __init__(self, folder: Path, secrets: SecretsHandler | None = None) -> None:
        self._folder = folder
        self._secrets = secrets
        self._known: dict[tuple[str, str, str], OnlineKeyInfo] = {}
        self._open: dict[tuple[str, str, str], Signer] = {}

    def learn(self, infos: Iterable[OnlineKeyInfo]) -> None:
        """Take note of keys; those that are known already stay as they are."""
        for info in infos:
            self._known.setdefault((info.repository, info.role, info.key.keyid), info)

    def for_role(self, repository: str, role: str, root: Root) -> list[Signer]:
        """The signers of every key that the root names for an online role and that is here.

        Raises:
            ConflictError: They are fewer than the role's threshold (code `online_key_missing`).
            Unavailable: A private key cannot be opened (code `online_key_unreadable`).
        """
        named = root.roles[role]
        here = [keyid for keyid in named.keyids if (repository, role, keyid) in self._known]
        if len(here) < named.threshold:
            raise ConflictError(
                f"Version {root.version} of the {repository} root wants {named.threshold} of the keys "
                f"{', '.join(keyid[:12] for keyid in named.keyids) or '(none)'} for {role}, and this hub has "
                f"{len(here)} of them. Make the new key on the hub first: sdx keys rotate --online.",
                "online_key_missing",
                repository=repository,
                role=role,
            )
        return [self._signer(repository, role, keyid) for keyid in here]

    def require_all(self, repository: str, root: Root) -> None:
        """Return if the hub can sign for every online role of this root.

        Raises:
            ConflictError, Unavailable: As for `for_role`.
        """
        for role in ONLINE_ROLES[repository]:
            self.for_role(repository, role, root)

    def keyids(self, repository: str, root: Root) -> tuple[str, ...]:
        """The ids of all keys that sign for this repository now, sorted."""
        roles = ONLINE_ROLES[repository]
        found = {signer.public_key.keyid for role in roles for signer in self.for_role(repository, role, root)}
        return tuple(sorted(found))

    def seal(self, repository: str, role: str, root: Root, signed: Targets | Snapshot | Timestamp) -> bytes:
        """Sign as `role`, and write the file.

        Raises:
            ConflictError, Unavailable: As for `for_role`.
        """
        metadata: Metadata[Any] = Metadata(signed)
        for signer in self.for_role(repository, role, root):
            metadata.sign(signer, append=True)
        return metadata.to_bytes(COMPACT)

    def _signer(self, repository: str, role: str, keyid: str) -> Signer:
        name = (repository, role, keyid)
        if name not in self._open:
            info = self._known[name]
            self._open[name] = open_online(info.uri, info.key, self._folder, self._secrets)
        return self._open[name]


def open_online(uri: str, key: Key, folder: Path, secrets: SecretsHandler | None = None) -> Signer:
    """Open the private part of an online key.

    Raises:
        BadInput: The file is named by more than a plain name (code `online_key_uri`).
        Unavailable: It cannot be opened, or is not the private part of `key` (code `online_key_unreadable`).
    """
    try:
        return Signer.from_priv_key_uri(_absolute(uri, folder), key, secrets)
    except BadInput:
        raise
    except (NotFound, TrustError, OSError, ValueError, TypeError) as error:
        raise _unreadable(key, error) from error
    except Exception as error:  # hardware modules raise errors of their own
        raise _unreadable(key, error) from error


def file_of(uri: str) -> str | None:
    """The file name in a `file2:` URI; None for other schemes.

    Raises:
        BadInput: It is more than a plain name (code `online_key_uri`).
    """
    if not uri.startswith(_FILE):
        return None
    name = uri.removeprefix(_FILE)
    if Path(name).name != name or name in {"", ".", ".."}:
        raise BadInput(f"{uri!r} must name a file of the folder of online keys, without a path.", "online_key_uri")
    return name


def _absolute(uri: str, folder: Path) -> str:
    name = file_of(uri)
    return uri if name is None else f"{_FILE}{folder.absolute() / name}"


def _unreadable(key: Key, error: Exception) -> Unavailable:
    return Unavailable(
        f"The hub's own key {key.keyid[:12]}... cannot be used: {error}. Restore the folder of online keys from the "
        "backup, or replace the key: sdx keys rotate --online.",
        "online_key_unreadable",
    )

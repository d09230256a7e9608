"""Keys that people hold: an encrypted private file, and a public file that names its owner.

A key id is always the digest of the public key (TUF specification 1.0.34, section 4.2.1). TUF itself does not demand
that; we do, because the same key under two ids would count twice against a threshold.
"""

import copy
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct
from securesystemslib.signer import Key, SSlibKey

from firmware_schemas.device_api import KEY_OWNER_FIELD
from firmware_schemas.ids import check_name
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TrustError
from sdx_hub.trust import pkcs8

MAX_KEY_FILE_BYTES = 64 * 1024
MIN_PASSPHRASE_CHARS = 8


class PublicKey(Struct, frozen=True):
    """A public key and the person who holds the private part.

    Attributes:
        key: As it goes into TUF metadata, with the owner in `KEY_OWNER_FIELD`.
    """

    owner: str
    key: SSlibKey

    @property
    def keyid(self) -> str:
        return str(self.key.keyid)

    def document(self) -> dict[str, Any]:
        return {"keyid": self.keyid, "key": self.key.to_dict()}


def owner_of(key: Key) -> str:
    """Who holds a key of TUF metadata, or the start of its id where nobody is named."""
    return str(key.unrecognized_fields.get(KEY_OWNER_FIELD) or key.keyid[:12])


def owned(key: SSlibKey, owner: str) -> PublicKey:
    """Name the owner of a key.

    Raises:
        InvalidName: The owner's name has another alphabet.
    """
    check_name(owner, "key owner")
    named = copy.deepcopy(key)
    named.unrecognized_fields[KEY_OWNER_FIELD] = owner
    return PublicKey(owner, named)


def standard_keyid(key: SSlibKey) -> str:
    """The id that this public key must have; computing it also proves that the public value parses."""
    return str(SSlibKey.from_crypto(key._crypto_key(), scheme=key.scheme).keyid)


def parse_public(document: Any, origin: str) -> PublicKey:
    """Read the JSON of a public key file.

    Raises:
        TrustError: It is not a public key file, names no owner, or its key id is not the digest of the key
            (code `key_file_invalid`).
        InvalidName: The owner's name has another alphabet.
    """
    try:
        keyid = document["keyid"]
        key = SSlibKey.from_dict(keyid, copy.deepcopy(document["key"]))
        expected = standard_keyid(key)
    except Exception as error:  # the library raises whatever the hostile document provokes
        raise TrustError(
            f"{origin} is not a public key file ({error!r}). Make one with `sdx keys new FILE` or `sdx keys import`.",
            "key_file_invalid",
        ) from error
    if keyid != expected:
        raise TrustError(
            f"{origin} gives its key the id {keyid[:12]}..., but the key's digest is {expected[:12]}.... "
            "Do not use it; ask the owner for the file again.",
            "key_file_invalid",
        )
    owner = key.unrecognized_fields.get(KEY_OWNER_FIELD)
    if not isinstance(owner, str):
        raise TrustError(f"{origin} does not name the owner of its key ({KEY_OWNER_FIELD}).", "key_file_invalid")
    check_name(owner, "key owner")
    return PublicKey(owner, key)


def read_public(path: Path) -> PublicKey:
    """Read a `.pub` file.

    Raises:
        NotFound: There is no such file (code `key_file_missing`).
        TrustError: It is not a public key file.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise NotFound(f"Cannot read the public key {path}: {error.strerror}.", "key_file_missing") from error
    if len(raw) > MAX_KEY_FILE_BYTES:
        raise TrustError(f"{path} is too large for a public key file.", "key_file_invalid")
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise TrustError(f"{path} is not a public key file: {error}.", "key_file_invalid") from error
    return parse_public(document, str(path))


def write_public(public: PublicKey, path: Path) -> None:
    write_new(path, (json.dumps(public.document(), indent=2, sort_keys=True) + "\n").encode(), 0o644)


def public_path(private: Path) -> Path:
    """Where the public part of a private key file lies: `OWNER.key` -> `OWNER.pub`, `FILE` -> `FILE.pub`."""
    return private.with_suffix(".pub") if private.suffix == ".key" else private.with_name(private.name + ".pub")


def generate(owner: str) -> tuple[Ed25519PrivateKey, PublicKey]:
    """Make an Ed25519 key in memory."""
    private = Ed25519PrivateKey.generate()
    return private, owned(SSlibKey.from_crypto(private.public_key()), owner)


def plain_pem(private: Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encrypted_pem(private: Ed25519PrivateKey, passphrase: str) -> bytes:
    """Encrypt a private key for its file.

    Raises:
        BadInput: The passphrase is too short (code `passphrase_too_short`).
    """
    check_passphrase(passphrase)
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return pkcs8.encrypt_pem(der, passphrase.encode())


def check_passphrase(passphrase: str) -> None:
    """Return if a new key may be protected by it.

    Raises:
        BadInput: It is too short (code `passphrase_too_short`).
    """
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise BadInput(
            f"The passphrase has fewer than {MIN_PASSPHRASE_CHARS} characters: choose a longer one.",
            "passphrase_too_short",
        )


def create_pair(path: Path, owner: str, passphrase: str, public_to: Path | None = None) -> PublicKey:
    """Make a key: the encrypted private part into `path` (mode 0600), the public part beside it.

    Raises:
        ConflictError: One of the files exists; keys are never overwritten (code `key_exists`).
        BadInput: The passphrase is too short.
    """
    public_file = public_to or public_path(path)
    for file in (path, public_file):
        if file.exists() or file.is_symlink():
            raise exists_already(file)
    private, public = generate(owner)
    write_new(path, encrypted_pem(private, passphrase), 0o600)
    write_public(public, public_file)
    return public


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist, durably, with exactly `mode` (the umask cannot widen or narrow it).

    Raises:
        ConflictError: It exists (code `key_exists`).
        NotFound: Its folder cannot be written (code `folder_missing`).
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as error:
        raise exists_already(path) from error
    except OSError as error:
        raise NotFound(f"Cannot write {path}: {error.strerror}. Make the folder first.", "folder_missing") from error
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def exists_already(path: Path) -> ConflictError:
    return ConflictError(f"{path} exists already and keys are never overwritten: choose another name.", "key_exists")


def check_distinct(keys: Iterable[PublicKey], role: str) -> None:
    """Return if every key of a role is another key of another person.

    Raises:
        TrustError: One person or one key is in it twice, and would count twice against the threshold (code
            `key_twice`).
    """
    seen_owners: set[str] = set()
    seen_keys: set[str] = set()
    for public in keys:
        material = json.dumps(public.key.keyval, sort_keys=True)
        if public.owner in seen_owners or material in seen_keys:
            raise TrustError(
                f"The role {role} has the key of {public.owner} twice: each signature must be another person's.",
                "key_twice",
            )
        seen_owners.add(public.owner)
        seen_keys.add(material)

"""Signers by URI, through securesystemslib: an encrypted file, PKCS#11, or a cloud's key service.

| URI                          | private key                                                                |
|------------------------------|----------------------------------------------------------------------------|
| `PATH`, `encrypted-file:PATH`| encrypted PKCS#8 PEM; the public part is found beside it                    |
| `file2:PATH`                 | plain PKCS#8 PEM: for the hub's online keys only                            |
| `hsm:KEYID?label=LABEL`      | PKCS#11; the module is named by the variable PYKCS11LIB                     |
| `gcpkms:`, `awskms:`, ...    | as securesystemslib defines them; the public key comes from a `.pub` file   |

A passphrase or PIN comes from the `secrets` function only: never from an argument, the environment or a URI.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import (
    SIGNER_FOR_URI_SCHEME,
    CryptoSigner,
    HSMSigner,
    Key,
    SecretsHandler,
    Signer,
    SSlibKey,
)

from sdx_hub.domain.errors import BadInput, NotFound, TrustError
from sdx_hub.trust import keys

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*:")


class EncryptedFileSigner(CryptoSigner):
    """A key in an encrypted PKCS#8 file; the passphrase is asked for when the signer is made.

    URI: `encrypted-file:PATH`.
    """

    SCHEME = "encrypted-file"
    SECRET_NAME = "passphrase"  # noqa: S105 - what to ask for, not the secret

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "EncryptedFileSigner":
        """Load the signer: see `Signer.from_priv_key_uri`.

        Raises:
            NotFound: There is no such file (code `key_file_missing`).
            TrustError: The passphrase is wrong (`passphrase_wrong`), the file is no encrypted key (`key_file_invalid`)
                or holds another key than its public part says (`key_mismatch`).
        """
        path = Path(priv_key_uri.removeprefix(f"{cls.SCHEME}:"))
        try:
            pem = path.read_bytes()
        except OSError as error:
            raise NotFound(f"Cannot read the key {path}: {error.strerror}.", "key_file_missing") from error
        if b"BEGIN ENCRYPTED PRIVATE KEY" not in pem:
            raise TrustError(
                f"{path} is not an encrypted private key. Keys of people are always encrypted: make one with "
                "`sdx keys new FILE`.",
                "key_file_invalid",
            )
        if secrets_handler is None or not isinstance(public_key, SSlibKey):
            raise BadInput(f"The key {path} needs its passphrase and its public part.", "passphrase_missing")
        passphrase = secrets_handler(f"{cls.SECRET_NAME} of {path.name}")
        try:
            private = load_pem_private_key(pem, passphrase.encode())
        except (ValueError, TypeError) as error:
            raise TrustError(f"The passphrase does not open {path}. Try again.", "passphrase_wrong") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise TrustError(f"{path} holds no Ed25519 key. Make one with `sdx keys new FILE`.", "key_file_invalid")
        try:
            return cls(private, public_key)
        except ValueError as error:
            raise TrustError(
                f"{path} and its public part are two different keys; restore the pair from your backup.",
                "key_mismatch",
            ) from error

    def __repr__(self) -> str:
        return f"EncryptedFileSigner(keyid={self.public_key.keyid[:12]}...)"


SIGNER_FOR_URI_SCHEME[EncryptedFileSigner.SCHEME] = EncryptedFileSigner


def normal_uri(text: str) -> str:
    """A signer URI; a bare path is shorthand for `encrypted-file:PATH`."""
    return text if _SCHEME.match(text) else f"{EncryptedFileSigner.SCHEME}:{text}"


def open_signer(
    text: str, secrets: SecretsHandler, *, public: Path | None = None, candidates: Iterable[Key] = ()
) -> Signer:
    """Make the signer that a URI names.

    Args:
        text: URI or path.
        secrets: Asked for the passphrase or PIN, by its name.
        public: The public key file, where it does not lie beside the private one.
        candidates: Keys of the role that is going to be signed: a hardware key is recognised among them, and brings
            its owner's name along.

    Raises:
        BadInput: The scheme is unknown (`signer_unknown`), or the public key must be named (`public_key_missing`).
        NotFound, TrustError: The key is missing, or refuses (see `EncryptedFileSigner`).
    """
    uri = normal_uri(text)
    scheme = _scheme(uri)
    key = public_key(uri, secrets, public=public, candidates=candidates)
    try:
        return Signer.from_priv_key_uri(uri, key, secrets)
    except (NotFound, TrustError, BadInput):
        raise
    except Exception as error:
        raise TrustError(f"The signer {scheme}: cannot be used: {error}.", "signer_failed") from error


def public_key(
    text: str, secrets: SecretsHandler, *, public: Path | None = None, candidates: Iterable[Key] = ()
) -> SSlibKey:
    """The public key of the signer that a URI names, without opening the private part.

    So a person can be shown what will be signed before a passphrase is asked for. Arguments and errors are those of
    `open_signer`; only a token that hides its public keys asks for the PIN here.
    """
    uri = normal_uri(text)
    return _public_key(uri, _scheme(uri), secrets, public, list(candidates))


def _scheme(uri: str) -> str:
    scheme = uri.partition(":")[0]
    if scheme not in SIGNER_FOR_URI_SCHEME:
        raise BadInput(
            f"No signer is known for {scheme}:. Use a path, encrypted-file:PATH, hsm:KEYID?label=LABEL, or a key "
            "service that securesystemslib knows.",
            "signer_unknown",
        )
    return scheme


def import_hsm(text: str, owner: str, secrets: SecretsHandler) -> tuple[str, keys.PublicKey]:
    """Read a public key from a PKCS#11 token and name its owner.

    Returns:
        The full signer URI (with the token's label) and the key.

    Raises:
        BadInput: It is no `hsm:` URI (code `signer_unknown`).
        TrustError: The token or the key is not there, or the PIN is wrong (code `hsm_failed`).
    """
    uri, _, query = text.partition("?")
    scheme, _, number = uri.partition(":")
    if scheme != HSMSigner.SCHEME or not (number.isdigit() or not number):
        raise BadInput(f"{text!r} names no hardware key: write hsm:KEYID?label=LABEL.", "signer_unknown")
    label = _label(query)
    try:
        full_uri, key = HSMSigner.import_(int(number) if number else None, label, secrets)
    except Exception as error:
        raise TrustError(_hsm_sentence(error), "hsm_failed") from error
    return full_uri, keys.owned(key, owner)


def _label(query: str) -> str | None:
    return dict(parse_qsl(query)).get("label")


def _hsm_sentence(error: Exception) -> str:
    said = str(error) or type(error).__name__
    return (
        f"The hardware key cannot be used: {said}. Check that the token is plugged in, that PYKCS11LIB names its "
        "PKCS#11 module, and the PIN."
    )


def _public_key(uri: str, scheme: str, secrets: SecretsHandler, public: Path | None, candidates: list[Key]) -> SSlibKey:
    if public is not None:
        return keys.read_public(public).key
    if scheme in {EncryptedFileSigner.SCHEME, CryptoSigner.SCHEME}:
        private = Path(uri.partition(":")[2])
        if not private.exists():
            raise NotFound(f"There is no key file {private}.", "key_file_missing")
        return keys.read_public(keys.public_path(private)).key
    if scheme == HSMSigner.SCHEME:
        _, found = import_hsm(uri, "unnamed", secrets)
        known = next((key for key in candidates if key.keyid == found.keyid), None)
        return known if isinstance(known, SSlibKey) else found.key
    raise BadInput(
        f"The public part of {scheme}: keys is not on this machine: name it with --public-key FILE.pub.",
        "public_key_missing",
    )

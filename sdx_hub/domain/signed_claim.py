"""What a device claims, verified with its key over the exact bytes that it sent."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sdx_hub.domain.errors import TrustError


def verify_claim(device_key: str, payload: bytes, signature: bytes) -> None:
    """Return if `signature` is the key's over `payload`; the key is a raw Ed25519 public key in hexadecimal.

    Raises:
        TrustError: It is not, or the key is no point of the curve (code `bad_signature`).
    """
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(device_key)).verify(signature, payload)
    except (InvalidSignature, ValueError):
        raise TrustError(
            "The signature is not the device's over these bytes; nothing was believed.", "bad_signature"
        ) from None

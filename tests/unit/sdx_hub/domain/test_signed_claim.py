import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sdx_hub.domain.errors import TrustError
from sdx_hub.domain.signed_claim import verify_claim

# RFC 8032, section 7.1, test 2.
KEY = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
PAYLOAD = b"\x72"
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_the_published_vector_holds() -> None:
    verify_claim(KEY, PAYLOAD, SIGNATURE)


def test_every_changed_bit_is_refused() -> None:
    for index in range(len(SIGNATURE) * 8):
        changed = bytearray(SIGNATURE)
        changed[index // 8] ^= 1 << index % 8
        with pytest.raises(TrustError):
            verify_claim(KEY, PAYLOAD, bytes(changed))


@pytest.mark.parametrize(
    ("key", "payload", "signature"),
    [
        (KEY, b"\x73", SIGNATURE),
        (KEY, b"", SIGNATURE),
        (KEY, PAYLOAD, b""),
        (KEY, PAYLOAD, SIGNATURE + b"\0"),
        (Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex(), PAYLOAD, SIGNATURE),
        ("", PAYLOAD, SIGNATURE),
        ("zz" * 32, PAYLOAD, SIGNATURE),
        ("ff" * 32, PAYLOAD, SIGNATURE),
    ],
    ids=["payload", "empty", "unsigned", "longer", "other-key", "no-key", "no-hex", "no-point"],
)
def test_anything_else_is_refused_with_one_code(key: str, payload: bytes, signature: bytes) -> None:
    with pytest.raises(TrustError) as refused:
        verify_claim(key, payload, signature)
    assert refused.value.code == "bad_signature"

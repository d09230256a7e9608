"""Encrypted PKCS#8, with a key derivation that makes guessing the passphrase dear.

`cryptography` writes PBES2 with 2,048 rounds of PBKDF2 and offers no way to raise them; a stolen key file would then
stand or fall with a few GPU hours. This writes the same standard container (RFC 8018, appendix A.4) with scrypt
(RFC 7914, section 7) and AES-256-CBC, which `cryptography` and OpenSSL both read.
"""

import base64
import hashlib
import os
import textwrap

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

SCRYPT_N = 2**14
SCRYPT_R = 8
SCRYPT_P = 5
"""OWASP's parameters of equal cost with the smallest memory (16 MiB): OpenSSL refuses to read more than 32 MiB."""

_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES256_CBC = bytes.fromhex("060960864801650304012a")


def encrypt_pem(private_key_info: bytes, passphrase: bytes) -> bytes:
    """Encrypt a DER PrivateKeyInfo.

    Args:
        private_key_info: Unencrypted PKCS#8, DER.
        passphrase: Not empty.

    Returns:
        A PEM file of the type ENCRYPTED PRIVATE KEY.
    """
    salt, iv = os.urandom(16), os.urandom(16)
    key = hashlib.scrypt(passphrase, salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, dklen=32, maxmem=64 * 1024**2)
    padder = PKCS7(128).padder()
    padded = padder.update(private_key_info) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    sealed = encryptor.update(padded) + encryptor.finalize()
    parameters = _sequence(_octets(salt), _integer(SCRYPT_N), _integer(SCRYPT_R), _integer(SCRYPT_P))
    algorithm = _sequence(_PBES2, _sequence(_sequence(_SCRYPT, parameters), _sequence(_AES256_CBC, _octets(iv))))
    text = textwrap.fill(base64.b64encode(_sequence(algorithm, _octets(sealed))).decode(), 64)
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{text}\n-----END ENCRYPTED PRIVATE KEY-----\n".encode()


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width, "big") + content


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _octets(content: bytes) -> bytes:
    return _tlv(0x04, content)


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))

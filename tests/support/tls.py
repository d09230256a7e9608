"""A server's certificate for the loopback address, with the authority that its clients must trust."""

from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa

from sdx_hub.demo.cluster.certificates import CA_FILE, CERTIFICATE_FILE, KEY_FILE, make_certificates


class Certificate(NamedTuple):
    """Three PEM files."""

    cert: Path
    key: Path
    ca: Path


CERTIFICATES = ("P-256", "RSA-2048")


def make_certificate(folder: Path, keys: str = "P-256") -> Certificate:
    """A certificate whose key is one of `CERTIFICATES`."""
    make_certificates(folder, rsa.generate_private_key(65537, 2048) if keys == "RSA-2048" else None)
    return Certificate(folder / CERTIFICATE_FILE, folder / KEY_FILE, folder / CA_FILE)

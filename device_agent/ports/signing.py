"""What the device claims, signed with its own key over the exact bytes."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from device_agent.core.errors import SettingsError
from device_agent.ports.clock import Clock
from firmware_schemas import canonical
from firmware_schemas.device_api import Envelope, Report, ReportBody, envelope

_MAX_TIME_S = 2**53 - 1


def new_key() -> bytes:
    """A fresh Ed25519 key as unencrypted PEM (PKCS #8): the craft wakes with nobody there to type a passphrase."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class Signer:
    """Signs as one device.

    Args:
        pem: Content of identity/device.key.
        device_id: Empty before the enrolment.
        clock: For the information field of reports.

    Raises:
        SettingsError: The key is damaged (code `identity_damaged`).
    """

    def __init__(self, pem: bytes, device_id: str, clock: Clock) -> None:
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise SettingsError(
                "identity/device.key is damaged: enrol this device anew.", "identity_damaged"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingsError("identity/device.key is no Ed25519 key.", "identity_damaged")
        self._key, self._device_id, self._clock = key, device_id, clock

    @property
    def public_hex(self) -> str:
        return self._key.public_key().public_bytes_raw().hex()

    def seal(self, payload: bytes) -> Envelope:
        return envelope(payload, self._key.sign(payload))

    def report(self, counter: int, body: ReportBody) -> bytes:
        """A signed report as it lies in the outbox."""
        time_s = min(self._clock.wall_s(), _MAX_TIME_S)
        return canonical.encode(self.seal(canonical.encode(Report(self._device_id, counter, time_s, body))))

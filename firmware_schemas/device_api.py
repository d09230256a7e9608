"""What devices and the hub say to each other.

Everything that a device *claims* travels in an `Envelope`: the exact bytes it signed, and the Ed25519 signature. The
poll carries only a cheap bearer token, because it claims nothing.
"""

import base64
import binascii
import re
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from firmware_schemas.errors import SchemaError
from firmware_schemas.ids import SHA256_PATTERN, NameField, Sha256Field, VersionField
from firmware_schemas.limits import MAX_ENVELOPE_BYTES, MAX_ENVELOPES_PER_REPORT, MAX_SERIAL_CHARS, MAX_TEXT_CHARS

DEVICE_TOKEN_PREFIX = "sdxd_"  # noqa: S105 - a prefix, not a secret
PERSON_TOKEN_PREFIX = "sdx_"  # noqa: S105
ENROL_TOKEN_PREFIX = "sdxe_"  # noqa: S105
INTERVAL_HEADER = "sdx-poll-interval"
"""On every answer to a poll: seconds to the next one, before jitter."""
DEVICE_FIELD = "x-sdx-device"
ACTION_FIELD = "x-sdx-action"
TIME_FIELD = "x-sdx-time"
"""Extra signed fields of director metadata: whom it is for (targets), which action (targets), when it was signed
(timestamp; seconds since 1970, UTC)."""
KEY_OWNER_FIELD = "x-sdx-keyowner"
"""Extra field of a key in root or targets metadata: the name of the person who holds it."""

_T = TypeVar("_T")

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""NUL as JSON writes it; a backslash that is doubled stands for itself. PostgreSQL stores no text that holds one."""

Serial = Annotated[str, Meta(min_length=1, max_length=MAX_SERIAL_CHARS, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$(?!\n)")]
Ed25519Hex = Annotated[str, Meta(pattern=SHA256_PATTERN)]
"""A raw Ed25519 public key: 32 bytes as 64 hexadecimal digits."""
Flights = Annotated[int, Meta(ge=0, le=10**7)]
RunningSeconds = Annotated[int, Meta(ge=0, le=10**10)]
"""Bounds that no craft reaches in three hundred years, and whose sum over a million of them is a 64-bit number."""


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    """Signed bytes.

    Attributes:
        payload: Base64 of the canonical JSON that was signed.
        signature: Base64 of the raw 64-byte Ed25519 signature over those bytes.
    """

    payload: Annotated[str, Meta(max_length=MAX_ENVELOPE_BYTES * 4 // 3 + 4)]
    signature: Annotated[str, Meta(max_length=96)]

    def payload_bytes(self) -> bytes:
        return _unbase64(self.payload)

    def signature_bytes(self) -> bytes:
        return _unbase64(self.signature)


def envelope(payload: bytes, signature: bytes) -> Envelope:
    return Envelope(base64.b64encode(payload).decode(), base64.b64encode(signature).decode())


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SchemaError("An envelope is not base64.") from error


class EnrolRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payload of the enrolment envelope, signed with `device_key`.

    The device makes its own poll token and sends only its SHA-256: the answer then holds no secret, so a replayed
    enrolment gains nothing, and a lost answer is simply asked for again.

    Attributes:
        enrol_token: The single-use secret part of the enrolment string; empty for a preauthorised or pending device.
        image_root_sha256, director_root_sha256: The roots that the device was told to trust, out of band.
    """

    device_key: Ed25519Hex
    serial: Serial
    hardware: NameField
    token_sha256: Sha256Field
    image_root_sha256: Sha256Field
    director_root_sha256: Sha256Field
    enrol_token: Annotated[str, Meta(max_length=128)] = ""
    agent_version: Annotated[str, Meta(max_length=64)] = ""
    purpose: Literal["enrol"] = "enrol"


class EnrolResponse(Struct, frozen=True, forbid_unknown_fields=True):
    """Answer to an enrolment.

    Attributes:
        image_root, director_root: Base64 of the root metadata with the digests that the request named.
    """

    device_id: str
    state: Literal["accepted", "pending"]
    image_root: str
    director_root: str
    interval_s: int


class PollAnswer(Struct, frozen=True, omit_defaults=True):
    """Body of a 200; a 304 says that nothing changed since the ETag that the device sent.

    Attributes:
        desired_version: Counts the device's desired states; it is also the ETag.
        action: Id of the current action, or empty where nothing is assigned.
        interval_s: Seconds to the next poll; the device adds full jitter up to `jitter_s`.
        rotate_token: The device should make a new poll token (a `token` report).
        inventory: The hub wants a fresh inventory.
    """

    desired_version: int
    action: str = ""
    interval_s: int = 60
    jitter_s: int = 15
    rotate_token: bool = False
    inventory: bool = False


class InstalledComponent(Struct, frozen=True, forbid_unknown_fields=True):
    """One component as it runs on the device."""

    name: NameField
    type: NameField
    product: NameField
    version: VersionField
    release_counter: int
    sha256: Sha256Field


Result = Literal["success", "failed", "rolled_back", "refused", "cancelled"]


class InventoryReport(Struct, frozen=True, tag="inventory", tag_field="kind", forbid_unknown_fields=True):
    """What runs on the device.

    Attributes:
        components: Sorted by name.
        floors: Release counter floor of each product: nothing smaller will ever be installed.
    """

    components: tuple[InstalledComponent, ...]
    floors: dict[str, int]
    agent_version: str
    boot_id: str


class ResultReport(Struct, frozen=True, tag="result", tag_field="kind", forbid_unknown_fields=True):
    """How an action ended: sent exactly once for an action.

    Attributes:
        action: The director's action id.
        code: Stable error code; empty on success.
        detail: One sentence for people.
        releases: Product to version, as it runs now.
    """

    action: Annotated[str, Meta(max_length=128)]
    result: Result
    releases: dict[str, str]
    code: Annotated[str, Meta(max_length=64)] = ""
    detail: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] = ""


class ProgressReport(Struct, frozen=True, tag="progress", tag_field="kind", forbid_unknown_fields=True):
    """A state that an action reached, for the timeline; may be lost or arrive late without harm."""

    action: Annotated[str, Meta(max_length=128)]
    state: Annotated[str, Meta(max_length=32)]
    code: Annotated[str, Meta(max_length=64)] = ""
    detail: Annotated[str, Meta(max_length=MAX_TEXT_CHARS)] = ""


class TokenReport(Struct, frozen=True, tag="token", tag_field="kind", forbid_unknown_fields=True):
    """The device made a new poll token. The old one stays valid until the new one is first used."""

    token_sha256: Sha256Field


class UsageReport(Struct, frozen=True, tag="usage", tag_field="kind", forbid_unknown_fields=True):
    """How much the craft was used in its life so far: totals that only grow.

    Attributes:
        flights: 0 where nothing on the craft counts them.
        running_s: Seconds that the craft, or what its flight stack counts of it, was running.
    """

    flights: Flights
    running_s: RunningSeconds


ReportBody = InventoryReport | ResultReport | ProgressReport | TokenReport | UsageReport


class Report(Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of a report envelope.

    Attributes:
        counter: Grows by at least one with each envelope that the device signs, across restarts: the guard against
            replay. Enrolment does not use it.
        time_s: The device's own idea of the time (seconds since 1970): information, never trusted.
    """

    device_id: str
    counter: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    time_s: int
    body: ReportBody


class ReportBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /device/v1/reports`: envelopes in counter order."""

    envelopes: Annotated[tuple[Envelope, ...], Meta(min_length=1, max_length=MAX_ENVELOPES_PER_REPORT)]


class ReportReceipt(Struct, frozen=True, omit_defaults=True):
    """What became of one envelope. `accepted` and `duplicate` are both acknowledgements: forget it.

    `refused` is final too: sending it again cannot help.
    """

    counter: int
    status: Literal["accepted", "duplicate", "refused"]
    code: str = ""
    detail: str = ""


class ReportAnswer(Struct, frozen=True):
    receipts: tuple[ReportReceipt, ...]


def decode_report(raw: bytes) -> Report:
    """Decode the payload of a report envelope strictly.

    Raises:
        SchemaError: It does not follow the contract.
    """
    return _decode(raw, Report)


def decode_enrolment(raw: bytes) -> EnrolRequest:
    """Decode the payload of an enrolment envelope strictly.

    Raises:
        SchemaError: It does not follow the contract.
    """
    return _decode(raw, EnrolRequest)


def _decode(raw: bytes, kind: type[_T]) -> _T:
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise SchemaError(f"A signed payload has {len(raw)} bytes; {MAX_ENVELOPE_BYTES} are allowed.")
    if _NUL.search(raw):
        raise SchemaError("A signed payload holds a NUL character, which no text of it may have.")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SchemaError(f"A signed payload does not follow the contract: {error}.") from error


class EnrolString(Struct, frozen=True):
    """What a person carries to a device: a secret, and the digests of the two roots to trust.

    Written `sdxe_SECRET.IMAGE_ROOT_SHA256.DIRECTOR_ROOT_SHA256`; the secret is empty for a preauthorised or pending
    device. Carrying the digests is what makes trust on first use unnecessary.
    """

    secret: str
    image_root_sha256: str
    director_root_sha256: str

    def __repr__(self) -> str:
        return f"EnrolString(secret=***, image_root_sha256={self.image_root_sha256[:8]}...)"

    def text(self) -> str:
        return f"{ENROL_TOKEN_PREFIX}{self.secret}.{self.image_root_sha256}.{self.director_root_sha256}"


def parse_enrol_string(text: str) -> EnrolString:
    """Parse an enrolment string.

    Raises:
        SchemaError: It is not one.
    """
    parts = text.strip().removeprefix(ENROL_TOKEN_PREFIX).split(".")
    if (
        not text.strip().startswith(ENROL_TOKEN_PREFIX)
        or len(parts) != 3
        or not all(len(part) == 64 and set(part) <= set("0123456789abcdef") for part in parts[1:])
    ):
        raise SchemaError(
            "This is not an enrolment string. Make one with `sdx device token`; it starts with sdxe_ and carries the "
            "digests of both roots."
        )
    return EnrolString(*parts)

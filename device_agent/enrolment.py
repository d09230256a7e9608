"""How a craft gets its identity: its own key, and two roots that it was told to trust, out of band.

The order makes a lost answer harmless: key and poll token are durable before they are sent, so asking again is the same
request, and the hub gives the same answer. `device_id` is written last: it is what makes a folder an enrolled one.
"""

import base64
import binascii
import hashlib
import json
import platform
import re
import secrets
from pathlib import Path

import msgspec
from msgspec import Struct

from device_agent import AGENT_VERSION
from device_agent.core.errors import SettingsError, TransportError, TrustError
from device_agent.ports.clock import Clock
from device_agent.ports.home import Home
from device_agent.ports.hub import Hub, Link, failure
from device_agent.ports.signing import Signer, new_key
from device_agent.ports.storage import Storage, lasting_folder, read_optional, replace_file
from device_agent.settings import decode_settings
from firmware_schemas import canonical
from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX, EnrolRequest, EnrolResponse, EnrolString
from firmware_schemas.limits import MAX_ROOT_BYTES

ENROL_PATH = "/device/v1/enrol"
_DEADLINE_S = 60.0
_SILENCE_S = 20.0
_SERIAL_FILES = (Path("/proc/device-tree/serial-number"), Path("/sys/firmware/devicetree/base/serial-number"))
_NOT_SERIAL = re.compile(r"[^A-Za-z0-9._:-]+")


class Enrolled(Struct, frozen=True):
    """What the hub answered."""

    device_id: str
    state: str


def default_serial() -> str:
    """The board's serial number, or the host's name."""
    for path in _SERIAL_FILES:
        raw = read_optional(path, 256)
        if raw and (serial := raw.decode("ascii", "replace").strip(" \0\n")):
            return _NOT_SERIAL.sub("-", serial)[:64]
    return _NOT_SERIAL.sub("-", platform.node())[:64].lstrip("-._:") or "craft"


def default_hardware() -> str:
    """A hardware id for boards that were given none: `linux-aarch64`, for instance."""
    return f"linux-{platform.machine().lower().replace('_', '-') or 'unknown'}"


def enrol(
    home: Home,
    hub_url: str,
    told: EnrolString,
    serial: str,
    hardware: str,
    *,
    storage: Storage,
    clock: Clock,
    hub: Link | None = None,
) -> Enrolled:
    """Enrol, or ask again with the same identity.

    Args:
        home: The state folder; made if it is missing.
        hub_url: As it will stand in agent.toml.
        told: The enrolment string: a secret, and the digests of both roots.
        serial: Of this craft.
        hardware: Hardware id of this craft.
        storage: Every durable step goes through it.
        clock: For deadlines.
        hub: Instead of the one at `hub_url`.

    Raises:
        SettingsError: The arguments are wrong, or the folder belongs to another enrolment.
        TransportError: The hub did not answer, or refused; `status` and `code` are its own.
        TrustError: The hub has other roots than this device was told to trust (code `root_digest_mismatch`).
    """
    _write_settings(home, hub_url, serial, hardware, storage)
    signer, token = _identity(home, storage, clock)
    request = EnrolRequest(
        device_key=signer.public_hex,
        serial=serial,
        hardware=hardware,
        token_sha256=hashlib.sha256(token.encode()).hexdigest(),
        image_root_sha256=told.image_root_sha256,
        director_root_sha256=told.director_root_sha256,
        enrol_token=told.secret,
        agent_version=AGENT_VERSION,
    )
    body = canonical.encode(signer.seal(canonical.encode(request)))
    link = hub or Hub(hub_url, lambda: "", clock, silence_s=_SILENCE_S)
    try:
        answer = link.exchange("POST", ENROL_PATH, body=body, longest_bytes=4 * MAX_ROOT_BYTES, deadline_s=_DEADLINE_S)
    finally:
        link.close()
    if answer.status not in {200, 201}:
        raise failure(answer, "the enrolment")
    try:
        response = msgspec.json.decode(answer.body, type=EnrolResponse)
        roots = {
            "image": (base64.b64decode(response.image_root, validate=True), told.image_root_sha256),
            "director": (base64.b64decode(response.director_root, validate=True), told.director_root_sha256),
        }
    except (msgspec.DecodeError, binascii.Error) as error:
        raise TransportError(f"The hub's answer cannot be read: {error}.", "answer_malformed") from error
    for repository, (raw, pin) in roots.items():
        if hashlib.sha256(raw).hexdigest() != pin:
            raise TrustError(
                f"The {repository} root that the hub sent is not the one that this device was told to trust.",
                "root_digest_mismatch",
            )
    for repository, (raw, _pin) in roots.items():
        folder = home.metadata(repository)
        if not (folder / "root.json").exists():  # A later enrolment must not undo a rotation.
            lasting_folder(storage, folder)
            replace_file(storage, folder / "root.json", raw)
    replace_file(storage, home.device_id, response.device_id.encode())
    return Enrolled(response.device_id, response.state)


def _write_settings(home: Home, hub_url: str, serial: str, hardware: str, storage: Storage) -> None:
    """Write the first three lines of agent.toml, or check that they are the same as before."""
    text = "".join(
        f"{name} = {json.dumps(value)}\n"
        for name, value in (("hub", hub_url.rstrip("/")), ("serial", serial), ("hardware", hardware))
    )
    wanted = decode_settings(text.encode())
    raw = read_optional(home.settings, 1 << 20)
    if raw is None:
        lasting_folder(storage, home.root)
        replace_file(storage, home.settings, text.encode(), 0o644)
        return
    found = decode_settings(raw)
    if (found.hub, found.serial, found.hardware) != (wanted.hub, wanted.serial, wanted.hardware):
        raise SettingsError(
            f"{home.root} belongs to the enrolment of {found.serial} ({found.hardware}) at {found.hub}: choose another "
            "folder, or edit its agent.toml.",
            "state_in_use",
        )


def _identity(home: Home, storage: Storage, clock: Clock) -> tuple[Signer, str]:
    """The device's key and poll token, made once."""
    lasting_folder(storage, home.identity)
    pem = read_optional(home.key, 1 << 16)
    if pem is None:
        pem = new_key()
        replace_file(storage, home.key, pem)
    raw = read_optional(home.token, 4096)
    if raw is None:
        raw = (DEVICE_TOKEN_PREFIX + secrets.token_urlsafe(32)).encode()
        replace_file(storage, home.token, raw)
    return Signer(pem, "", clock), raw.decode().strip()


def is_enrolled(home: Home) -> bool:
    return home.device_id.exists()

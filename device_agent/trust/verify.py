"""What the device verifies before it believes an instruction, in the order and with the numbers of the trust page.

(1) Fix the time: the persisted floor, what has passed since in the same boot, and the signed time of the director's
    timestamp; the largest counts, for everything that follows.
(2) Director: root chain, timestamp, snapshot, targets. The device is named, no component twice, every component known.
(3) Image repository: root chain, timestamp, snapshot, targets, delegations.
(4) Both agree on length, hashes, hardware and release counter. The counter is not below the device's floor.
(5) The set is complete and compatible, and was not rolled back here before.

(6), the payload, and (7), the flight gate, are the worker's. Whatever is refused here has changed nothing but the
metadata folder.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from tuf.api.metadata import TargetFile, Targets

from device_agent.core.errors import TransportError, TrustError
from device_agent.core.plan import (
    Facts,
    Instruction,
    Plan,
    Target,
    Verified,
    check_agreement,
    check_instruction,
    make_plan,
)
from device_agent.ports.clock import Clock
from device_agent.trust import trusted_time
from device_agent.trust.refresh import Fetch, MetadataFolder, Refresh
from device_agent.trust.repository import Repository
from device_agent.trust.trusted_time import TimeFloor
from firmware_schemas.device_api import ACTION_FIELD, DEVICE_FIELD, TIME_FIELD
from firmware_schemas.errors import SchemaError
from firmware_schemas.limits import MAX_MANIFEST_BYTES, MAX_PAYLOAD_BYTES
from firmware_schemas.release import MANIFEST_NAME, ReleaseManifest, TargetCustom, decode_manifest

FLOOR_NAME = "time_floor"
_MAX_ACTION_CHARS = 128

FetchBlob = Callable[[str, int], bytes]
"""Takes a SHA-256 and a length; returns bytes that have both, or raises."""


class Verifier:
    """Verifies one instruction; make a new one for the next.

    Args:
        director, image: Files of each repository.
        fetch_director, fetch_image: Remote sides.
        clock: Only for the boot's identity and the time since boot.
    """

    def __init__(
        self,
        director: MetadataFolder,
        image: MetadataFolder,
        fetch_director: Fetch,
        fetch_image: Fetch,
        clock: Clock,
    ) -> None:
        self._director_folder, self._clock = director, clock
        self._director = Refresh(director, fetch_director, keep_accepted=True)
        self._image = Refresh(image, fetch_image, keep_accepted=False)
        self._floor = TimeFloor()

    def instruction(self, facts: Facts) -> Instruction:
        """(1) and (2).

        Raises:
            TrustError: metadata_*, wrong_device, component_twice, component_unknown_type.
            TransportError: The link failed.
            SettingsError: The trusted root is missing.
        """
        repository = Repository("director", self._director.stored_root(), trusted_time.as_datetime(0))
        self._director.root(repository)

        # (1) The floor counts only if the keys that vouched for it still count.
        keyids = repository.keyids("timestamp")
        stored = trusted_time.decode_floor(self._director_folder.read(FLOOR_NAME))
        boot_id, since_boot_s = self._clock.boot_id(), self._clock.since_boot_s()
        floor = trusted_time.vouched_for_by(stored, keyids)
        earliest_s = trusted_time.earliest_now_s(floor, boot_id, since_boot_s)
        repository.set_time(trusted_time.as_datetime(earliest_s))
        self._director.timestamp(repository)
        signed_s = trusted_time.checked_signed_time(repository.timestamp.unrecognized_fields.get(TIME_FIELD))
        self._floor = TimeFloor(max(earliest_s, signed_s), boot_id, since_boot_s, keyids)
        repository.set_time(trusted_time.as_datetime(self._floor.time_s))

        # (2) An expired timestamp ends here: a freeze, or a hub that is long gone.
        self._director.snapshot(repository)
        self._director.role(repository, "targets", "root")
        return check_instruction(_instruction(repository.targets), facts)

    def plan(
        self, instruction: Instruction, facts: Facts, fetch_blob: FetchBlob, *, longest_trial_s: int
    ) -> Verified[Plan]:
        """(3), (4) and (5), after `instruction`.

        Raises:
            TrustError: metadata_*, delegation_too_deep, target_unknown, director_image_mismatch, wrong_hardware,
                release_rollback, bundle_incomplete, incompatible, payload_digest_known_bad.
            TransportError: The link failed.
        """
        # (3)
        now = trusted_time.as_datetime(self._floor.time_s)
        repository = Repository("image", self._image.stored_root(), now)
        self._image.root(repository)
        repository.set_time(now)
        self._image.timestamp(repository)
        self._image.snapshot(repository)
        self._image.role(repository, "targets", "root")
        genuine: dict[str, Target | None] = {}
        for target in instruction.targets:
            found = self._image.find(repository, target.path)
            genuine[target.path] = _target(target.path, found) if found is not None else None

        # (4)
        check_agreement(instruction, genuine, facts)

        # (5)
        manifests = {
            target.path: _manifest(target, fetch_blob)
            for target in instruction.targets
            if target.name == MANIFEST_NAME and not target.custom.component
        }
        plan = make_plan(instruction, manifests, facts, longest_trial_s=longest_trial_s)

        self._director.accept()
        self._director_folder.write(FLOOR_NAME, trusted_time.encode_floor(self._floor))
        return plan


def _instruction(signed: Targets) -> Instruction:
    """Read what the director says, strictly.

    Raises:
        TrustError: It has delegations, names no device, or a target is malformed (code `metadata_malformed`).
        TransportError: It names no action: nothing is assigned (code `director_behind`).
    """
    device = signed.unrecognized_fields.get(DEVICE_FIELD)
    action = signed.unrecognized_fields.get(ACTION_FIELD, "")
    if signed.delegations is not None:
        raise TrustError("The director delegates, which it must not.", "metadata_malformed")
    if not isinstance(device, str) or not isinstance(action, str) or len(action) > _MAX_ACTION_CHARS:
        raise TrustError("The director's targets do not say whom they are for.", "metadata_malformed")
    targets = tuple(_target(path, file) for path, file in sorted(signed.targets.items()))
    if not action:
        raise TransportError(
            "The poll names an action, but the director has not signed one: it may be behind.", "director_behind"
        )
    return Instruction(device, action, targets)


def _target(path: str, file: TargetFile) -> Target:
    custom: Any = file.unrecognized_fields.get("custom")
    sha256 = file.hashes.get("sha256", "")
    try:
        decoded = msgspec.convert(custom, TargetCustom)
    except msgspec.ValidationError as error:
        raise TrustError(f"The target {path[:200]!r} is malformed: {error}.", "metadata_malformed") from error
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise TrustError(f"The target {path[:200]!r} has no SHA-256.", "metadata_malformed")
    if file.length > MAX_PAYLOAD_BYTES:
        raise TrustError(f"The target {path[:200]!r} has {file.length} bytes.", "payload_too_large")
    return Target(path, file.length, sha256, decoded)


def _manifest(target: Target, fetch_blob: FetchBlob) -> ReleaseManifest:
    if target.length > MAX_MANIFEST_BYTES:
        raise TrustError(f"The manifest {target.path[:200]!r} has {target.length} bytes.", "payload_too_large")
    try:
        return decode_manifest(fetch_blob(target.sha256, target.length))
    except SchemaError as error:
        raise TrustError(f"{target.path[:200]!r}: {error}", "manifest_invalid") from error

"""What the director says to one device: TUF metadata that names the device, its action, and every target it should run.

Targets, snapshot and timestamp always change together and have one version number. There are no delegations: a stolen
director key can only point at what the image repository lists as well.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct
from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from firmware_schemas.device_api import ACTION_FIELD, DEVICE_FIELD, TIME_FIELD
from firmware_schemas.release import MANIFEST_NAME, ReleaseTarget, hardware_fits
from sdx_hub.trust.online import DIRECTOR, OnlineSigners


class Instructions(Struct, frozen=True):
    """What one device should run.

    Attributes:
        action: Empty where nothing is assigned; `targets` are empty then.
    """

    device_id: str
    action: str
    targets: Mapping[str, TargetFile]


class Documents(Struct, frozen=True):
    """The three signed files of one version."""

    version: int
    targets: bytes
    snapshot: bytes
    timestamp: bytes
    expires: datetime

    @property
    def size(self) -> int:
        return len(self.targets) + len(self.snapshot) + len(self.timestamp)


def targets_for(release: Iterable[ReleaseTarget], hardware: str) -> dict[str, TargetFile]:
    """A release's manifest, and those of its components that fit the hardware; documents stay where they are."""
    return {
        target.path: TargetFile(
            target.length, {"sha256": target.sha256}, target.path, {"custom": msgspec.to_builtins(target.custom)}
        )
        for target in release
        if target.path.endswith(f"/{MANIFEST_NAME}")
        or (target.custom.component and hardware_fits(target.custom.hardware, hardware))
    }


def sign(
    instructions: Instructions, version: int, root: Root, signers: OnlineSigners, *, now: datetime, life: timedelta
) -> Documents:
    """Sign the three files.

    Raises:
        ConflictError, Unavailable: The hub cannot sign for this root; see `OnlineSigners.for_role`.
    """
    expires = now + life
    fields = {DEVICE_FIELD: instructions.device_id, ACTION_FIELD: instructions.action}
    said = Targets(version, expires=expires, targets=dict(instructions.targets), unrecognized_fields=fields)
    targets = signers.seal(DIRECTOR, "targets", root, said)
    listed = {"targets.json": MetaFile.from_data(version, targets, ["sha256"])}
    snapshot = signers.seal(DIRECTOR, "snapshot", root, Snapshot(version, expires=expires, meta=listed))
    newest = Timestamp(
        version,
        expires=expires,
        snapshot_meta=MetaFile.from_data(version, snapshot, ["sha256"]),
        unrecognized_fields={TIME_FIELD: int(now.timestamp())},
    )
    timestamp = signers.seal(DIRECTOR, "timestamp", root, newest)
    return Documents(version, targets, snapshot, timestamp, newest.expires)

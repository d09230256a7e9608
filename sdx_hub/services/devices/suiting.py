"""Whether a release is for a device: conditions on `Device` that no index answers, to be asked of chosen devices."""

from typing import Any, Final

from sqlalchemy import and_, exists, not_, true
from sqlmodel import col

from firmware_schemas.release import ANY_HARDWARE, ReleaseManifest
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.services.devices.desired_state import CURRENT_ACTION
from sdx_hub.services.devices.selecting import Condition

_RETRY_AFTER: Final = ("failed", "rolled_back", "refused", "cancelled")


def fits(manifest: ReleaseManifest) -> Any:
    """The release is for the device's hardware."""
    return true() if ANY_HARDWARE in manifest.hardware else col(Device.hardware).in_(manifest.hardware)


def holds(release: Release) -> Condition:
    """The release is assigned, and the last try did not fail."""
    assigned = exists().where(
        col(Assignment.device_id) == col(Device.id),
        col(Assignment.product) == release.product,
        # Not by the index over releases: one that is new has no holders as far as PostgreSQL has counted.
        col(Assignment.release_id) + "" == release.id,
    )
    to_retry = exists().where(col(Action.id) == CURRENT_ACTION, col(Action.state).in_(_RETRY_AFTER))
    return and_(assigned, not_(to_retry))

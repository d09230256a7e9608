"""What a plan says."""

from datetime import datetime

from msgspec import Struct

from sdx_hub.domain.rollout.policy import Order


class PlannedDevice(Struct, frozen=True):
    """One of the first devices of a wave, or one of those that are left out."""

    id: str
    serial: str
    hardware: str


class SiteShare(Struct, frozen=True):
    """What goes over the link of a site.

    Attributes:
        site: Its name; empty for devices without one, `(others)` for the sites with less.
        transported_bytes: At the most: a device that has a part already does not fetch it again.
    """

    site: str
    devices: int
    transported_bytes: int


class PlannedWave(Struct, frozen=True, kw_only=True):
    """One wave.

    Attributes:
        label: As it was ordered.
        total: Devices up to here.
        strata: Devices by kind, the most frequent first.
        first: Some devices: those that are offered the release first.
        sites: The most bytes first.
        starts_at, ends_at: Expected; None where that is more than a year away.
    """

    wave: int
    label: str
    devices: int
    total: int
    strata: dict[str, int]
    first: list[PlannedDevice]
    transported_bytes: int
    sites: list[SiteShare]
    starts_at: datetime | None
    ends_at: datetime | None


class LeftOut(Struct, frozen=True):
    """Devices that match and do not get the release.

    Attributes:
        code: See `eligibility.SENTENCES`.
        first: Some of them.
    """

    code: str
    devices: int
    sentence: str
    first: list[PlannedDevice]


class PlannedApproval(Struct, frozen=True):
    """Who stands behind it.

    Attributes:
        signed_by: Owners of the keys that signed the release.
        second_person: Somebody else has to approve the rollout before it begins.
    """

    signed_by: list[str]
    second_person: bool
    sentence: str


class Plan(Struct, frozen=True, kw_only=True):
    """Who would get the release when. It changes nothing; starting the same order takes the same devices.

    Attributes:
        order: With every default filled in.
        query: In its canonical form; empty for every accepted device that the release fits.
        members: Devices in all waves.
        matching: Members and those that are left out.
        transported_bytes: Over all links, compressed, at the most.
        starts_at, ends_at: Expected; None where that is more than a year away.
        assumptions: What the times are made of, in sentences.
        warnings: What to think about before starting, in sentences.
    """

    order: Order
    query: str
    members: int
    matching: int
    waves: list[PlannedWave]
    left_out: list[LeftOut]
    transported_bytes: int
    starts_at: datetime | None
    ends_at: datetime | None
    assumptions: list[str]
    approval: PlannedApproval
    warnings: list[str]

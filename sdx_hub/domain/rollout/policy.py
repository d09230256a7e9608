"""What a person orders when starting a rollout. Every default is filled in before it is stored."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Seconds = Annotated[int, Meta(ge=0, le=366 * 86_400)]
WaveText = Annotated[str, Meta(min_length=1, max_length=4_096)]
Reason = Annotated[str, Meta(max_length=2_000)]

MAX_WAVES = 32
DEFAULT_WAVES = ("1", "10%", "50%", "100%")
DEFAULT_STRATA = ("hardware", "attribute.site", "attribute.link")


class Gate(Struct, frozen=True, forbid_unknown_fields=True):
    """When to stop.

    Attributes:
        base_rate: The failure rate that is nobody's concern: what the field does to good releases as well. At 2 % three
            clean installs and one failure, the only device of its kind, pause.
        pause_at, halt_at: E-values. Of good releases at most one in `pause_at` is ever paused, one in `halt_at` halted.
        control: Compare silence with members that were not offered anything yet.
        critical: Codes of outcomes that pause at the first one.
    """

    base_rate: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.02
    pause_at: Annotated[float, Meta(gt=1.0, le=1e6)] = 5.0
    halt_at: Annotated[float, Meta(gt=1.0, le=1e6)] = 20.0
    control: bool = True
    critical: tuple[str, ...] = ("trial_starts_used_up", "lost_contact")


class Soak(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a wave is watched after its last member ended, and how much it must have been used.

    Attributes:
        seconds: Time.
        flights, hours: Use of all its committed members together.
    """

    seconds: Seconds = 0
    flights: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    hours: Annotated[float, Meta(ge=0, le=1_000_000)] = 0


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """How many devices are under way at once; 0 means no limit.

    Attributes:
        site_attribute: Names the site of a device, whose link its updates share.
        site_in_flight: For each site.
    """

    in_flight: Annotated[int, Meta(ge=0)] = 0
    site_in_flight: Annotated[int, Meta(ge=0)] = 0
    site_attribute: Annotated[str, Meta(max_length=64)] = "site"


class Order(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rollout as it is ordered.

    Attributes:
        release: `PRODUCT@VERSION`.
        query: Whom it is for; empty for every accepted device that the release fits.
        waves: Counts (`5`) and percentages (`25%`) say how many devices have been offered the release by the end of the
            wave, in total; anything else is a query for a group, whose devices come in that wave.
        stratify: What waves are balanced by: `hardware`, `attribute.NAME`.
        quorum: So many of a wave's members must have committed before the next one opens.
        silent_after_s: A device is missed when it was not heard for so long.
        windows: Times in which new offers are made, for instance `Mon-Fri 22:00-04:00 Asia/Tokyo`; none means always.
        priority: 0 to 100; of two rollouts the larger one has the device first.
        urgent: The reason for the urgent lane: before all others, outside windows, and in place of offers that other
            rollouts have open. Empty means no.
        join: Devices that match later join the last wave.
        downgrade: The reason for going to a smaller release counter than devices run, where the signed manifest of what
            they run allows it. Empty means that those devices are left out.
        second_person: Wait for the approval of somebody who did not order it, also where two people signed the release.
    """

    release: Annotated[str, Meta(max_length=129)]
    query: Annotated[str, Meta(max_length=4_096)] = ""
    waves: Annotated[tuple[WaveText, ...], Meta(min_length=1, max_length=MAX_WAVES)] = DEFAULT_WAVES
    stratify: Annotated[tuple[str, ...], Meta(max_length=8)] = DEFAULT_STRATA
    gate: Gate = Gate()
    soak: Soak | None = None
    quorum: Share = 0.5
    silent_after_s: Annotated[int, Meta(ge=1, le=366 * 86_400)] | None = None
    limits: Limits = Limits()
    windows: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=32)] = ()
    priority: Annotated[int, Meta(ge=0, le=100)] = 50
    urgent: Reason = ""
    join: bool = False
    downgrade: Reason = ""
    second_person: bool = False
    notes: Reason = ""


class Approval(Struct, frozen=True):
    """The two people behind a rollout.

    Attributes:
        kind: `signatures`: two people signed the release; `second_person`: somebody else approved the rollout.
        manifest_sha256: Of the release, so that the approval is of exactly this content.
        signed_by: Owners of the keys that signed it.
        approved_by: The person, where one was needed.
    """

    kind: Literal["signatures", "second_person"]
    manifest_sha256: str
    signed_by: tuple[str, ...]
    approved_by: str = ""

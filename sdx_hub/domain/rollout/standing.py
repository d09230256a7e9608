"""Where a rollout, one of its waves and one of its members are: what is shown, and what sentences are made of."""

from datetime import datetime
from typing import Literal

from msgspec import Struct


class Standing(Struct, frozen=True, kw_only=True):
    """A rollout.

    Attributes:
        id: `ro-3`.
        state, code, reason: See `persistence.tables.rollouts.Rollout`.
        wave, wave_count: The wave that is open, 0 before the first one, and how many there are.
        members: Counted by state.
        silent_after_s: A device is missed when it was not heard for so long.
        waits_for: What holds it up now, as in `facts.Decision`; empty while it offers, or where nothing is decided.
        sentence: What the engine would do now and why; empty where nothing is decided.
        approved_by: The person who approved it, where one was needed.
    """

    id: str
    release: str
    product: str
    state: str
    code: str = ""
    reason: str = ""
    wave: int = 0
    wave_count: int = 0
    members: dict[str, int] = {}
    priority: int = 50
    urgent: bool = False
    silent_after_s: int = 0
    waits_for: str = ""
    sentence: str = ""
    created_by: str = ""
    approved_by: str = ""


class WaveStanding(Struct, frozen=True, kw_only=True):
    """A wave.

    Attributes:
        label: As it was ordered: `1`, `10%`, or a query.
        size: Members, joined ones included.
        members: Counted by state.
        last_ended_at: When the last of its members ended so far: the soak begins there.
        flights, running_s: Use of its committed members since they committed, all together.
    """

    wave: int
    label: str
    size: int
    members: dict[str, int] = {}
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    last_ended_at: datetime | None = None
    flights: int = 0
    running_s: int = 0


class Member(Struct, frozen=True, kw_only=True):
    """A device of a rollout.

    Attributes:
        device, serial: The device.
        position: In the order in which members are offered the release, over all waves.
        stratum: Its kind, in words.
        state, code, detail, since: Its latest outcome; `since` is None before the first one.
        attempt: How often it was offered something.
        offered: The release that was offered last: the rollout's, or one that has to come before it.
        previous: What was assigned before the first offer.
    """

    device: str
    serial: str
    wave: int
    position: int
    stratum: str = ""
    site: str = ""
    state: str
    code: str = ""
    detail: str = ""
    since: datetime | None = None
    attempt: int = 0
    offered: str | None = None
    previous: str | None = None


class Hold(Struct, frozen=True):
    """What keeps a queued member of an open wave from its offer.

    Attributes:
        by: `other_rollout`, or `site_limit`.
        what: The other rollout, or the site.
        devices: Members at the site that are under way, which is as many as may be.
    """

    by: Literal["other_rollout", "site_limit"]
    what: str
    devices: int = 0


class Membership(Struct, frozen=True, kw_only=True):
    """A device's place in a rollout."""

    rollout: Standing
    member: Member
    hold: Hold | None = None


class Pin(Struct, frozen=True):
    """A device that stays on what it runs, whatever rolls out."""

    reason: str
    pinned_by: str
    pinned_at: datetime


class Outsider(Struct, frozen=True):
    """A rollout that goes on without a device.

    Attributes:
        code: Why the device could not become a member now (see `left_out`); empty where it could.
        join: Whether the rollout takes devices in that match later.
    """

    rollout: str
    release: str
    code: str
    join: bool


class DeviceRollouts(Struct, frozen=True):
    """A device's places in rollouts.

    Attributes:
        rollouts: The newest first: where one goes on, and where one ever offered it something.
        left_out: Rollouts that go on and whose query it matches, without being a member.
    """

    pin: Pin | None
    rollouts: tuple[Membership, ...]
    left_out: tuple[Outsider, ...] = ()


NOWHERE = DeviceRollouts(None, ())

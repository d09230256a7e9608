"""What a decision is made of, and what it says: both are kept, so that it can be made again from the log.

facts -> deciding.decide(facts) -> decision
"""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from sdx_hub.domain.rollout.policy import Order


class Tally(Struct, frozen=True):
    """So many members of a wave and stratum are in a state."""

    wave: int
    stratum: int
    state: str
    devices: int


class WaveFacts(Struct, frozen=True):
    """A wave; see `persistence.tables.rollouts.RolloutWave`."""

    wave: int
    label: str
    size: int
    opened_at: datetime | None = None
    closed_at: datetime | None = None
    last_ended_at: datetime | None = None
    flights: int = 0
    running_s: int = 0


class Control(Struct, frozen=True):
    """Members that were not offered anything since the open wave began.

    Attributes:
        devices: Those that were heard when the wave opened, or since.
        silent: Those of them that have not been heard for `silent_after_s`.
    """

    devices: int = 0
    silent: int = 0


class Accepted(Struct, frozen=True):
    """The evidence that a person accepted when resuming: it does not stop the rollout again.

    Attributes:
        good, bad: Members by stratum, as they were then.
        critical: Critical outcomes up to then.
    """

    good: dict[int, int] = {}
    bad: dict[int, int] = {}
    critical: int = 0


class Critical(Struct, frozen=True):
    """Critical outcomes so far.

    Attributes:
        count: Members whose latest outcome has a code that is critical.
        device, code: The newest one.
    """

    count: int = 0
    device: str = ""
    code: str = ""


class Facts(Struct, frozen=True, kw_only=True):
    """Everything that the engine looks at.

    Attributes:
        now: UTC.
        order: With every default filled in.
        state, wave: The rollout's.
        release_state: `published`, `yanked`, ...
        strata: Names by number.
        tallies: Members by wave, stratum and state; zero counts are left out.
        critical: Of members that count as bad.
        outcomes_through: The tallies are the sum of all outcomes up to this id.
    """

    now: datetime
    order: Order
    state: str
    wave: int
    release_state: str
    waves: tuple[WaveFacts, ...]
    strata: dict[int, str]
    tallies: tuple[Tally, ...]
    accepted: Accepted = Accepted()
    critical: Critical = Critical()
    control: Control = Control()
    outcomes_through: int = 0


Rule = Literal[
    "go_on",
    "open_wave",
    "pause_gate",
    "pause_critical",
    "halt_gate",
    "halt_release",
    "finish",
    "revert_done",
]


class Reading(Struct, frozen=True):
    """What the gate shows.

    Attributes:
        good, bad: Members that ended, without those accepted.
        allowed_rate: The failure rate that the null hypothesis allows: the base rate and what the control shows.
        e_value: The evidence that the true rate is larger.
        by_stratum: The e-value of each kind of device.
        bound: Upper end of the one-sided 95 % interval of the failure rate (Clopper-Pearson).
        sentence: In words: `20 clean installs still allow a failure rate of 14 %`.
    """

    good: int
    bad: int
    allowed_rate: float
    e_value: float
    by_stratum: dict[int, float]
    bound: float
    sentence: str


class Decision(Struct, frozen=True):
    """What the engine does next.

    Attributes:
        rule: Stable name of what decided it.
        state, wave: Of the rollout afterwards.
        code: Stable reason, where the state changes: `gate_paused`, `gate_halted`, `critical_outcome`,
            `release_not_published`, `all_done`, `all_back`.
        sentence: For people: what, why, and what would change it.
        reading: The gate, as it was.
        slots: How many devices may be offered now; None for no limit of the rollout's own.
        waits_for: Stable name of what holds the rollout up where it does nothing: `outcomes`, `quorum`, `soak_time`,
            `soak_use`, `window`, `person`, `limit`, `preparing`; empty while it offers.
    """

    rule: Rule
    state: str
    wave: int
    code: str
    sentence: str
    reading: Reading
    slots: int | None = 0
    waits_for: str = ""

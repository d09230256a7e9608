"""A simulated fleet of counts (`bench.fleet_of_counts`) under the rollout engine's own decisions."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct, structs

from bench.fleet_of_counts import OFF_DUTY_AFTER, STEP_HOURS, Wave
from bench.wave_times import QUORUM, SOAK_STEPS
from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Decision, Facts, Tally, WaveFacts
from sdx_hub.domain.rollout.policy import Gate, Order, Soak
from sdx_hub.domain.rollout.states import ENDED

BEGAN = datetime(2026, 11, 25, tzinfo=UTC)
STEP = timedelta(hours=STEP_HOURS)
Change = tuple[int, int, dict[str, int]]
"""Of a wave and a kind: by how many the count of members in each state changes."""
LONGEST = 5_000
"""Steps after which a rollout that goes on is given up."""


class Ended(Struct, frozen=True):
    """How a rollout ended.

    Attributes:
        state: `finished`, `halted`, or `paused` if nobody looks after it.
        opened: The step at which each wave opened.
    """

    state: str
    step: int
    paused_at: int | None
    opened: tuple[int, ...]
    decisions: int


def order(gate: Gate) -> Order:
    step_s = int(STEP.total_seconds())
    return Order(
        release="sim@2.0.0",
        gate=gate,
        soak=Soak(seconds=SOAK_STEPS * step_s),
        quorum=QUORUM,
        silent_after_s=OFF_DUTY_AFTER * step_s,
    )


def drive(waves: Sequence[Wave], gate: Gate = Gate(base_rate=0.03, control=False)) -> Ended:  # noqa: B008 - frozen
    """Follow it, step by step, until it is halted, has finished, or is paused and nothing changes any more."""
    kinds = len(waves[0].members)
    counts = [[{"queued": wave.members[kind]} if wave.members[kind] else {} for kind in range(kinds)] for wave in waves]
    facts = Facts(
        now=BEGAN,
        order=order(gate),
        state="running",
        wave=0,
        release_state="published",
        waves=tuple(WaveFacts(number, str(wave.size), wave.size) for number, wave in enumerate(waves, 1)),
        strata={kind: f"kind {kind}" for kind in range(kinds)},
        tallies=(),
    )
    opened: list[int] = []
    paused_at: int | None = None
    decisions = 0
    coming: dict[int, list[Change]] = {}
    for step in range(LONGEST):
        ended: set[int] = set()
        for number, kind, change in coming.pop(step, ()):
            _move(counts[number][kind], change)
            if "committed" in change:
                ended.add(number)
        now = BEGAN + step * STEP
        facts = structs.replace(
            facts,
            now=now,
            tallies=_tallies(counts),
            waves=tuple(
                structs.replace(wave, last_ended_at=now) if wave.wave - 1 in ended else wave for wave in facts.waves
            ),
        )
        decision = decide(facts)
        decisions += 1
        if decision.waits_for == "quorum" and _is_over(facts, coming):
            facts = _advanced(facts)
            decision = decide(facts)
        while (decision.state, decision.wave) != (facts.state, facts.wave):
            if decision.wave != facts.wave:
                opened.append(step)
                _begin(waves[decision.wave - 1], decision.wave - 1, step, counts, coming)
            facts = _applied(facts, decision, counts)
            decision = decide(facts)
            decisions += 1
        if facts.state == "paused" and paused_at is None:
            paused_at = step
        if facts.state in {"halted", *ENDED} or (facts.state == "paused" and not coming):
            return Ended(facts.state, step, paused_at, tuple(opened), decisions)
    raise RuntimeError(f"Still {facts.state} after {LONGEST} steps.")


def _is_over(facts: Facts, coming: Mapping[int, list[Change]]) -> bool:
    """Nothing more is to come of the open wave, and it was watched for long enough."""
    last = facts.waves[facts.wave - 1].last_ended_at
    left = any(number == facts.wave - 1 for later in coming.values() for number, _, _ in later)
    return not left and last is not None and facts.now >= last + SOAK_STEPS * STEP


def _advanced(facts: Facts) -> Facts:
    """A person closes a wave that cannot close by itself."""
    waves = tuple(
        structs.replace(wave, closed_at=facts.now) if wave.wave == facts.wave else wave for wave in facts.waves
    )
    return structs.replace(facts, waves=waves)


def _applied(facts: Facts, decision: Decision, counts: list[list[dict[str, int]]]) -> Facts:
    waves = tuple(
        structs.replace(
            wave,
            opened_at=facts.now if wave.wave == decision.wave != facts.wave else wave.opened_at,
            closed_at=facts.now if wave.wave == facts.wave != decision.wave else wave.closed_at,
        )
        for wave in facts.waves
    )
    return structs.replace(facts, state=decision.state, wave=decision.wave, waves=waves, tallies=_tallies(counts))


def _begin(
    wave: Wave,
    number: int,
    step: int,
    counts: list[list[dict[str, int]]],
    coming: dict[int, list[Change]],
) -> None:
    """Offer it to everybody, and know what will become of them."""
    for kind, members in enumerate(wave.members):
        if not members:
            continue
        counts[number][kind] = {"offered": members}
        if wave.off[kind]:
            away = wave.off[kind]
            change = {"offered": -away, "off_duty": away}
            coming.setdefault(step + OFF_DUTY_AFTER, []).append((number, kind, change))
    for taken in wave.taken:
        change = {"off_duty" if taken.was_off else "offered": -taken.devices, "trial": taken.devices}
        coming.setdefault(step + taken.step, []).append((number, taken.kind, change))
    for event in wave.events:
        change = {"committed": event.good, "rolled_back": event.failed, "lost": event.silent}
        change["trial"] = -sum(change.values())
        coming.setdefault(step + event.step, []).append((number, event.kind, change))


def _move(states: dict[str, int], change: dict[str, int]) -> None:
    for name, devices in change.items():
        states[name] = states.get(name, 0) + devices


def _tallies(counts: list[list[dict[str, int]]]) -> tuple[Tally, ...]:
    return tuple(
        Tally(number, kind, name, devices)
        for number, kinds in enumerate(counts, 1)
        for kind, states in enumerate(kinds)
        for name, devices in states.items()
        if devices
    )

"""When a wave is over: nothing pending, enough committed, watched for long enough, used enough."""

from datetime import datetime, timedelta
from math import ceil

from msgspec import Struct

from sdx_hub.domain.rollout import counting
from sdx_hub.domain.rollout.facts import Facts, WaveFacts
from sdx_hub.domain.rollout.policy import Soak
from sdx_hub.domain.rollout.states import GOOD, OUT
from sdx_hub.domain.rollout.words import clock, span

_NOT_COUNTED = frozenset({*OUT, "superseded"})
_SLACK = 1e-9
"""0.1 * 30 is a little more than 3."""


class Held(Struct, frozen=True):
    """Why a wave stays open.

    Attributes:
        waits_for: `outcomes`, `quorum`, `soak_time` or `soak_use`.
        sentence: What is missing, and what would change it.
    """

    waits_for: str
    sentence: str


def held(facts: Facts, wave: WaveFacts) -> Held | None:
    """What keeps a wave open; None where it may close.

    The last wave also waits for members of earlier ones that are under way again: they were retried, or a person closed
    their wave.
    """
    if wave.closed_at is not None:
        return None
    label = name(wave)
    is_last = wave.wave == facts.waves[-1].wave
    through = None if is_last else wave.wave
    queued, under_way = (
        counting.count(facts, states, through) for states in (frozenset({"queued"}), counting.UNDER_WAY)
    )
    if queued or under_way:
        return Held(
            "outcomes",
            f"{label} waits for {_pending(queued, under_way)}. Each of them ends with its result, or when it was not "
            f"heard for {span(facts.order.silent_after_s or 0)}.",
        )
    committed = counting.count(facts, GOOD, wave.wave)
    counted = sum(tally.devices for tally in facts.tallies if tally.wave == wave.wave) - counting.count(
        facts, _NOT_COUNTED, wave.wave
    )
    needed = ceil(facts.order.quorum * counted - _SLACK)
    if committed < needed:
        return Held(
            "quorum",
            f"{label} needs {needed} of {counted} committed ({facts.order.quorum:.0%}) and has {committed}. Devices "
            "that are off may still take their offer; a person may retry, skip or advance.",
        )
    return _soaking(facts.order.soak or Soak(), wave, committed, facts.now)


def _soaking(soak: Soak, wave: WaveFacts, committed: int, now: datetime) -> Held | None:
    label = name(wave)
    if wave.last_ended_at is None:
        return None  # There is nothing to watch.
    until = wave.last_ended_at + timedelta(seconds=soak.seconds)
    if now < until:
        return Held(
            "soak_time",
            f"{label} is watched until {clock(until)}, {span(soak.seconds)} after its last device ended. "
            "A person may advance.",
        )
    if not committed:
        return None  # There is nothing to use.
    missing = []
    if wave.flights < soak.flights:
        missing.append(f"{wave.flights} of {soak.flights} flights")
    if wave.running_s < soak.hours * 3600:
        missing.append(f"{wave.running_s / 3600:.1f} of {soak.hours:g} running hours")
    if missing:
        return Held(
            "soak_use",
            f"{label} has seen {' and '.join(missing)} with the new version. Using its devices changes that; "
            "a person may advance.",
        )
    return None


def name(wave: WaveFacts) -> str:
    """`Wave 2 (10%)`."""
    return f"Wave {wave.wave} ({wave.label})"


def _pending(queued: int, under_way: int) -> str:
    parts = (f"{queued:,} queued" if queued else "", f"{under_way:,} under way" if under_way else "")
    return " and ".join(filter(None, parts))

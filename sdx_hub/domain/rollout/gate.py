"""What the outcomes so far show: the evidence, the bound of the failure rate, and both in words."""

from collections.abc import Mapping

from msgspec import structs

from sdx_hub.domain.rollout import bounds
from sdx_hub.domain.rollout.evidence import Outcomes, combined, evidence, of_kinds
from sdx_hub.domain.rollout.facts import Accepted, Control, Reading
from sdx_hub.domain.rollout.policy import Gate
from sdx_hub.domain.rollout.words import number, percent, several

_MOST_ALLOWED = 0.99


def read(
    outcomes: Mapping[int, Outcomes],
    names: Mapping[int, str],
    gate: Gate,
    control: Control,
    *,
    accepted: Accepted = Accepted(),  # noqa: B008 - frozen
) -> Reading:
    """Say what the outcomes show.

    Args:
        outcomes: Of each kind of device that has members, whether or not any of them was offered anything.
        names: Of the kinds.
        gate: The policy.
        control: Members that were not offered anything.
        accepted: Evidence that is left out.
    """
    new = {kind: _without(each, kind, accepted) for kind, each in outcomes.items()}
    allowed = allowed_rate(gate, control)
    everything = of_kinds(new.values())
    overall = evidence(everything, allowed, gate.base_rate)
    by_kind = {kind: evidence(each, allowed, gate.base_rate) for kind, each in new.items()}
    reading = Reading(
        good=everything.committed,
        bad=everything.bad,
        allowed_rate=_kept(allowed),
        e_value=_kept(combined(overall, by_kind)),
        by_stratum={kind: _kept(each) for kind, each in by_kind.items()},
        bound=_kept(bounds.upper(everything.bad, everything.committed + everything.bad)),
        sentence="",
    )
    since = " since it was resumed" if accepted.good or accepted.bad else ""
    said = _overall(reading, everything.on_trial, gate, since) + _worst(new, by_kind, overall, names)
    return structs.replace(reading, sentence=said)


def allowed_rate(gate: Gate, control: Control) -> float:
    """The base rate, and what devices that were offered nothing prove to go silent by themselves."""
    proven = bounds.lower(control.silent, control.devices) if gate.control else 0.0
    return min(gate.base_rate + proven, _MOST_ALLOWED)


def _without(outcomes: Outcomes, kind: int, accepted: Accepted) -> Outcomes:
    """The same without what was accepted; it is not known any more when those had failed, and it hardly matters."""
    good, bad = accepted.good.get(kind, 0), accepted.bad.get(kind, 0)
    return structs.replace(
        outcomes,
        committed=max(0, outcomes.committed - good),
        stopped=max(0, outcomes.stopped - bad),
        broken=max(0, outcomes.broken - max(0, bad - outcomes.stopped)),
    )


def _overall(reading: Reading, on_trial: int, gate: Gate, since: str) -> str:
    good, bad = reading.good, reading.bad
    bound, allowed = percent(reading.bound), percent(reading.allowed_rate)
    if not good + bad:
        return f"Nothing has ended yet{since}."
    if not bad:
        verb = "allows" if good == 1 else "allow"
        return f"{several(good, 'clean install')}{since} still {verb} a failure rate of {bound}."
    trial = f", and {on_trial:,} more on trial" if on_trial else ""
    return (
        f"{bad:,} of {good + bad:,} failed{since}{trial}: the true rate is at most {bound}, and {allowed} is allowed; "
        f"e = {number(reading.e_value)}, pause at {gate.pause_at:g}, halt at {gate.halt_at:g}."
    )


def _worst(
    outcomes: Mapping[int, Outcomes], by_kind: Mapping[int, float], overall: float, names: Mapping[int, str]
) -> str:
    """The kind of device that the evidence is about, where it is about one more than about all."""
    if len(by_kind) < 2:
        return ""
    worst = max(by_kind, key=lambda kind: (by_kind[kind], -kind))
    if by_kind[worst] <= max(1.0, overall):
        return ""
    name, found = names.get(worst) or "one kind", outcomes[worst]
    ended = found.committed + found.bad
    return f" Most of it is {name}: {found.bad:,} of {ended:,} failed, e = {number(by_kind[worst])}."


def _kept(value: float) -> float:
    """Six digits: what is logged decides, and logarithms of another machine may differ in the last of sixteen."""
    return float(f"{value:.6g}")

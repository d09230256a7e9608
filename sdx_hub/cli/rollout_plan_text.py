"""How a plan looks to the person who is about to start it."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdx_hub.cli.console import facts, size, table

_FIRST = 3


def plan_text(plan: Mapping[str, Any]) -> str:
    """Who gets the release when, who does not and why, and what to think about before."""
    order = plan["order"]
    pairs: list[tuple[str, object]] = [
        ("release", order["release"]),
        ("query", plan["query"] or "every accepted device that it fits"),
        ("devices", f"{plan['members']} of {plan['matching']} that match"),
        ("on the links", f"{size(plan['transported_bytes'])} at the most"),
        ("expected", _expected(plan)),
        ("stops", _stops(order)),
        ("soak", _soak(order["soak"] or {}, order["quorum"])),
        ("limits", _limits(order["limits"])),
        ("windows", "; ".join(order["windows"])),
        ("urgent", order["urgent"]),
        ("approval", plan["approval"]["sentence"]),
    ]
    parts = [facts([pair for pair in pairs if pair[1]]), _waves(plan["waves"]), _left_out(plan["left_out"])]
    parts += ["\n".join(f"{title}: {each}" for each in plan[name]) for title, name in _LISTS]
    return "\n\n".join(filter(None, parts))


_LISTS = (("Assumed", "assumptions"), ("WARNING", "warnings"))


def _waves(waves: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (
            each["wave"],
            each["label"],
            each["devices"],
            each["total"],
            ", ".join(f"{count} {name or 'of no kind'}" for name, count in each["strata"].items()),
            _some(each["first"], each["devices"]),
            size(each["transported_bytes"]),
            str(each["starts_at"] or "")[:16],
        )
        for each in waves
    ]
    return table(("wave", "ordered as", "devices", "in total", "kinds", "first", "bytes", "expected"), rows)


def _left_out(left_out: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        (each["code"], each["devices"], each["sentence"], _some(each["first"], each["devices"])) for each in left_out
    ]
    return table(("left out", "devices", "because", "for instance"), rows) if rows else ""


def _some(devices: Sequence[Mapping[str, Any]], count: int) -> str:
    named = ", ".join(each["serial"] for each in devices[:_FIRST])
    return f"{named}, ..." if count > min(len(devices), _FIRST) and named else named


def _expected(plan: Mapping[str, Any]) -> str:
    if not plan["ends_at"]:
        return "more than a year from now"
    return f"{str(plan['starts_at'])[:16]} to {str(plan['ends_at'])[:16]} UTC"


def _stops(order: Mapping[str, Any]) -> str:
    gate = order["gate"]
    critical = f"; at the first {' or '.join(gate['critical'])}" if gate["critical"] else ""
    return (
        f"pauses at e = {gate['pause_at']:g}, halts at e = {gate['halt_at']:g}, against a failure rate of "
        f"{gate['base_rate'] * 100:g} %{critical}"
    )


def _soak(soak: Mapping[str, Any], quorum: float) -> str:
    parts = [f"{soak.get('seconds', 0)} s"]
    parts += [f"{soak['flights']} flights"] if soak.get("flights") else []
    parts += [f"{soak['hours']:g} running hours"] if soak.get("hours") else []
    return f"{', '.join(parts)} after a wave's last device; {quorum * 100:g} % of it must have committed"


def _limits(limits: Mapping[str, Any]) -> str:
    parts = [f"{limits['in_flight']} at once"] if limits["in_flight"] else []
    parts += [f"{limits['site_in_flight']} at each {limits['site_attribute']}"] if limits["site_in_flight"] else []
    return ", ".join(parts)

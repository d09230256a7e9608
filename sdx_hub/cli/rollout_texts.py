"""How rollouts look to people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdx_hub.cli.console import facts, table
from sdx_hub.domain.rollout.states import BACK, BAD, GOOD, IN_FLIGHT, NEUTRAL, OUT

if TYPE_CHECKING:
    from rich.console import RenderableType

_BAR = 24
_LABEL = 16
"""Characters: a frame fits a terminal of 80, and the end of a bar, where failures are few, is never cut off."""
_PARTS = (
    ("committed", GOOD, "green"),
    ("failed", BAD, "red"),
    ("under way", IN_FLIGHT, "yellow"),
    ("neither", (*NEUTRAL, *OUT, *BACK), "magenta"),
    ("queued", ("queued",), "bright_black"),
)
"""What a bar shows, in this order: name, states, colour."""


def counted(members: Mapping[str, int]) -> str:
    """`7 committed, 1 silent`, the good ones first."""
    order = [*GOOD, *BAD, *IN_FLIGHT, *BACK, *NEUTRAL, *OUT, "queued"]
    known = sorted(members.items(), key=lambda pair: order.index(pair[0]))
    return ", ".join(f"{devices} {state.replace('_', ' ')}" for state, devices in known if devices) or "no devices"


def change_line(found: Mapping[str, Any]) -> str:
    """Everything that is worth a line when it is another one than before; no times that pass."""
    where = f"wave {found['wave']} of {found['wave_count']}" if found["wave"] else "no wave open"
    waits = f", waits for {found['waits_for'].replace('_', ' ')}" if found["waits_for"] else ""
    gate = f" {found['gate']['sentence']}" if found["gate"] else ""
    return f"{found['id']} {found['release']} {found['state']}, {where}{waits}: {counted(found['members'])}.{gate}"


def list_text(found: Sequence[Mapping[str, Any]]) -> str:
    columns = ("id", "release", "state", "wave", "devices", "ordered by", "created")
    rows = [
        (
            each["id"],
            each["release"],
            each["state"],
            f"{each['wave']}/{each['wave_count']}",
            counted(each["members"]),
            each["created_by"],
            str(each["created_at"])[:19],
        )
        for each in found
    ]
    return table(columns, rows)


def devices_text(found: Sequence[Mapping[str, Any]]) -> str:
    columns = ("device", "wave", "kind", "state", "since", "tries", "offered", "why")
    rows = [
        (
            each["serial"],
            each["wave"],
            each["stratum"],
            each["state"].replace("_", " "),
            str(each["since"] or "")[:19],
            each["attempt"],
            each["offered"] or "",
            " ".join(filter(None, (each["code"], each["detail"]))),
        )
        for each in found
    ]
    return table(columns, rows)


def show_text(found: Mapping[str, Any]) -> str:
    """One rollout whole."""
    pairs: list[tuple[str, object]] = [
        ("rollout", found["id"]),
        ("release", found["release"]),
        ("state", " ".join(filter(None, [found["state"], found["code"] and f"({found['code']})"]))),
        ("reason", found["reason"]),
        ("query", found["spec"]["query"] or "every device that it fits"),
        ("ordered by", found["created_by"]),
        ("approved by", _approval(found)),
        ("devices", counted(found["members"])),
        ("gate", found["gate"]["sentence"] if found["gate"] else ""),
        ("evidence", _evidence(found)),
        ("waits for", found["waits_for"].replace("_", " ")),
        ("now", found["sentence"]),
        ("urgent", found["spec"]["urgent"]),
        ("windows", "; ".join(found["spec"]["windows"])),
        ("notes", found["spec"]["notes"]),
        ("left out", ", ".join(f"{devices} {code}" for code, devices in sorted(found["left_out"].items()))),
    ]
    return f"{facts([pair for pair in pairs if pair[1]])}\n\n{waves_text(found['waves'])}"


def waves_text(waves: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        (
            each["wave"],
            each["label"],
            each["size"],
            "closed" if each["closed_at"] else "open" if each["opened_at"] else "",
            counted(each["members"]),
            f"{each['flights']} flights, {each['running_s'] / 3600:.1f} h" if each["opened_at"] else "",
        )
        for each in waves
    ]
    return table(("wave", "ordered as", "devices", "", "of them", "used since"), rows)


def frame(found: Mapping[str, Any]) -> "RenderableType":
    """A rollout for a terminal, drawn anew at each change."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for _ in range(4):
        grid.add_column(no_wrap=True)
    grid.add_column()
    for each in found["waves"]:
        closed, opened = each["closed_at"], each["opened_at"]
        mark = Text("closed", "green") if closed else Text("open", "bold") if opened else Text("")
        bar = Text.assemble(*bar_of(each["members"], each["size"]))
        label = Text(each["label"])
        label.truncate(_LABEL, overflow="ellipsis")
        grid.add_row(f"wave {each['wave']}", label, mark, bar, Text(counted(each["members"])))
    legend = Text.assemble(*(part for name, _, colour in _PARTS for part in (("█ ", colour), f"{name}   ")))
    head = Text.assemble((f"{found['id']} ", "bold"), found["release"], "  ", (found["state"], "bold"))
    lines = [found["reason"] if found["state"] != "running" else "", found["gate"]["sentence"] if found["gate"] else ""]
    lines += [_evidence(found), found["sentence"]]
    return Group(head, grid, legend, *(Text(line) for line in lines if line))


def bar_of(members: Mapping[str, int], size: int, width: int = _BAR) -> list[tuple[str, str]]:
    """Pieces of a bar with their colours, `width` characters together; whoever is there is seen."""
    counts = [(sum(members.get(state, 0) for state in states), colour) for _, states, colour in _PARTS]
    whole = max(size, sum(count for count, _ in counts), 1)
    lengths = [max(1, count * width // whole) if count else 0 for count, _ in counts]
    if any(lengths):
        longest = lengths.index(max(lengths))
        lengths[longest] += width - sum(lengths)
    return [("█" * length, colour) for length, (_, colour) in zip(lengths, counts, strict=True) if length]


def _evidence(found: Mapping[str, Any]) -> str:
    if not found["gate"]:
        return ""
    gate, policy = found["gate"], found["spec"]["gate"]
    return (
        f"e = {gate['e_value']:.3g} (pause at {policy['pause_at']:g}, halt at {policy['halt_at']:g}); the failure rate "
        f"is at most {gate['bound'] * 100:.1f} %, allowed are {gate['allowed_rate'] * 100:.1f} %"
    )


def _approval(found: Mapping[str, Any]) -> str:
    approval = found["approval"]
    if approval is None:
        return ""
    if approval["kind"] == "signatures":
        return f"{', '.join(approval['signed_by'])}, who signed the release"
    return found["approved_by"] or "nobody yet"

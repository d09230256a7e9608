"""`sdx rollout evidence`: every decision with what it was made of, made again and counted again on this machine."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click
import msgspec

from sdx_hub.cli.rollout_replay import Replayed, replay
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import TrustError
from sdx_hub.publishing.hub_client import segment

_PAGE = 500


@click.command()
@click.argument("rollout", metavar="ID")
@command()
def evidence(session: Session, rollout: str) -> None:
    """Show every decision, make each of the engine's again, and count all outcomes again; 5 when one differs."""
    path, kept = f"/rollouts/{segment(rollout)}", _Kept(session.console.as_json)
    with session.client() as hub:
        decisions = list(hub.pages(f"{path}/decisions", limit=_PAGE))
        # After the decisions: so it counts at least what they counted.
        shown = hub.get(path)
        outcomes = kept.passing(hub.pages(f"{path}/outcomes", limit=_PAGE))
        pairs = list(zip(decisions, replay(decisions, outcomes, shown), strict=True))
        for _ in outcomes:
            pass  # Later ones were counted by no decision; they are evidence as well.
    again = [each for _, each in pairs if each.decided is not None]
    same = [each for each in again if each.decided and each.counted is not False]
    document = {
        "rollout": shown["id"],
        "state": shown["state"],
        "decisions": [line | msgspec.to_builtins(each) for line, each in pairs],
        "outcomes": kept.outcomes,
        "replayed": len(again),
        "same": len(same),
        "counted": sum(each.counted is not None for _, each in pairs),
    }
    lines = "\n".join(_line(line, each) for line, each in pairs)
    summary = f"replayed: {len(same)} of {len(again)} the same"
    if differs := next((each for _, each in pairs if each.differs), None):
        session.console.say(lines)
        raise TrustError(
            f"{summary}; decision {differs.id}: {differs.differs}. Either the log was changed, or this sdx decides by "
            "other rules than the hub: compare their versions, then the audit log.",
            "evidence_differs",
            **document,
        )
    counts = f"{kept.count} outcomes counted again for {document['counted']} decisions"
    session.console.result(document, f"{lines}\n{summary}; {counts}")


class _Kept:
    """Outcomes that pass: of a large rollout there are millions, and only --json shows them."""

    def __init__(self, keep: bool) -> None:
        self._keep = keep
        self.count = 0
        self.outcomes: list[Mapping[str, Any]] = []

    def passing(self, outcomes: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        for each in outcomes:
            self.count += 1
            if self._keep:
                self.outcomes.append(each)
            yield each


def _line(line: Mapping[str, Any], replayed: Replayed) -> str:
    reading = line["decision"]["reading"]
    gate = f"e = {reading['e_value']:<8.3g} bound {reading['bound'] * 100:5.1f} %"
    mark = "!" if replayed.differs else " "
    return f"{mark} {str(line['time'])[:19]}  {line['actor']:<12}  {line['rule']:<14}  {gate}  {line['sentence']}"

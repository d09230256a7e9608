"""`sdx rollout evidence`: every decision with what it was made of, made again and counted again on this machine."""

from collections.abc import Mapping
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
    path = f"/rollouts/{segment(rollout)}"
    with session.client() as hub:
        decisions = list(hub.pages(f"{path}/decisions", limit=_PAGE))
        # After the decisions: so it counts at least what they counted.
        shown = hub.get(path)
        outcomes = list(hub.pages(f"{path}/outcomes", limit=_PAGE))
    replayed = list(replay(decisions, outcomes, shown))
    made = [each for each in replayed if each.decided is not None]
    same = [each for each in made if each.decided and each.counted is not False]
    differ = [each for each in replayed if each.differs]
    document = {
        "rollout": shown["id"],
        "state": shown["state"],
        "decisions": [line | msgspec.to_builtins(each) for line, each in zip(decisions, replayed, strict=True)],
        "outcomes": outcomes,
        "replayed": len(made),
        "same": len(same),
        "counted": sum(each.counted is not None for each in replayed),
    }
    lines = [_line(line, each) for line, each in zip(decisions, replayed, strict=True)]
    summary = f"replayed: {len(same)} of {len(made)} the same"
    counts = f"{len(outcomes)} outcomes counted again for {document['counted']} decisions"
    if differ:
        if not session.console.as_json:
            session.console.say("\n".join(lines))
        raise TrustError(
            f"{summary}; decision {differ[0].id}: {differ[0].differs}. Either the log was changed, or this sdx decides "
            "by other rules than the hub: compare their versions, then the audit log.",
            "evidence_differs",
            **document,
        )
    session.console.result(document, lambda: "\n".join([*lines, f"{summary}; {counts}"]))


def _line(line: Mapping[str, Any], replayed: Replayed) -> str:
    reading = line["decision"]["reading"]
    gate = f"e = {reading['e_value']:<8.3g} bound {reading['bound'] * 100:5.1f} %"
    mark = "!" if replayed.differs else " "
    return f"{mark} {str(line['time'])[:19]}  {line['actor']:<12}  {line['rule']:<14}  {gate}  {line['sentence']}"

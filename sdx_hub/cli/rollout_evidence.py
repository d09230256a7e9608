"""`sdx rollout evidence`: every decision with what it was made of, made again and counted again on this machine.

Whoever can write to the hub's database could change a decision together with its facts, so that they agree; the audit
chain would still hold the digest of what was decided. It is looked at where the token may.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
import msgspec

from sdx_hub.cli.rollout_replay import Replayed, digest, replay
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import NotAllowed, TrustError
from sdx_hub.publishing.hub_client import HubClient, segment

_PAGE = 500
_BEFORE = timedelta(minutes=5)
"""The audit log has a clock of its own."""


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
        chained = _chained(hub, shown["id"], decisions)
    lost = [] if chained is None else [each["id"] for each in decisions if digest(each) not in chained]
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
        "chained": None if chained is None else len(decisions) - len(lost),
    }
    lines = "\n".join(_line(line, each) for line, each in pairs)
    summary = f"replayed: {len(same)} of {len(again)} the same"
    differs = [f"decision {each.id}: {each.differs}" for _, each in pairs if each.differs]
    differs += [f"decision {each}: what the audit chain holds is something else" for each in lost]
    if differs:
        session.console.say(lines)
        raise TrustError(
            f"{summary}; {differs[0]}. Either the log was changed, or this sdx decides by other rules than the hub: "
            "compare their versions, then have the audit chain verified: sdx hub doctor.",
            "evidence_differs",
            **document,
        )
    counts = f"{kept.count} outcomes counted again for {document['counted']} decisions"
    chain = "not looked up in the audit chain (an admin can)" if chained is None else "all of them in the audit chain"
    session.console.result(document, f"{lines}\n{summary}; {counts}; {chain}")


def _chained(hub: HubClient, rollout: str, decisions: Sequence[Mapping[str, Any]]) -> set[str] | None:
    """Digests of this rollout's decisions in the audit chain; None where the token may not look."""
    if not decisions:
        return set()
    since = datetime.fromisoformat(decisions[0]["time"]) - _BEFORE
    found: set[str] = set()
    try:
        for entry in hub.pages("/audit", limit=_PAGE):
            if datetime.fromisoformat(entry["time"]) < since:
                break
            if (entry["action"], entry["subject"]) == ("rollout.decide", rollout):
                found.add(entry["detail"]["sha256"])
    except NotAllowed:
        return None
    return found


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

"""`sdx rollout watch`: live on a terminal, a line for each change elsewhere, and an exit code at the end."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from sdx_hub.cli.console import Console
from sdx_hub.cli.durations import DURATION
from sdx_hub.cli.rollout_polling import Watching
from sdx_hub.cli.rollout_texts import change_line, frame
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import ConflictError
from sdx_hub.domain.rollout.explaining import of_rollout
from sdx_hub.domain.rollout.standing import Standing
from sdx_hub.publishing.hub_client import HubClient, segment

_STOPPED_BY_ITSELF = ("gate_paused", "critical_outcome")
_ENDS_BADLY = ("halted", "reverting", "reverted", "cancelled")
_NAMED = 20
TIMEOUT = click.option("--timeout", type=DURATION, default=0, metavar="2h", help="Give up after so long.")


@click.command()
@click.argument("rollout", metavar="ID")
@TIMEOUT
@command()
def watch(session: Session, rollout: str, timeout: int) -> None:
    """Watch a rollout until it ends; 0 when it is finished, 6 when it was stopped.

    One that a person paused is watched on. A hub that does not answer is asked again until --timeout.
    """
    with session.client() as hub:
        end = follow(hub, rollout, session.console, timeout)
    session.console.result(end, f"{end['id']} is finished. {end['reason']}")


def follow(hub: HubClient, rollout: str, console: Console, timeout_s: float) -> dict[str, Any]:
    """Show a rollout until it is finished; return it as it was then.

    Raises:
        ConflictError: It was stopped (code `rollout_halted`), or the time is up (`watch_timeout`).
    """
    with _shown(console) as show:
        for found in Watching(hub, rollout, console, timeout_s):
            show(found)
            if found["state"] == "finished":
                return found
            if found["state"] in _ENDS_BADLY or (found["state"] == "paused" and found["code"] in _STOPPED_BY_ITSELF):
                break
    raise _halted(found)


def follow_back(hub: HubClient, rollout: str, console: Console, timeout_s: float) -> dict[str, Any]:
    """Show a rollout until its devices are back; return it as it was then.

    Raises:
        ConflictError: Some are not back (code `revert_incomplete`), or the time is up (`watch_timeout`).
    """
    with _shown(console) as show:
        for found in Watching(hub, rollout, console, timeout_s):
            show(found)
            if found["state"] == "reverted":
                break
    if not (count := found["members"].get("revert_failed", 0)):
        return found
    members = list(hub.pages(f"/rollouts/{segment(rollout)}/devices", state="revert_failed"))
    named = [f"{each['serial']} ({each['code'] or 'no result'})" for each in members[:_NAMED]]
    more = f", and {count - _NAMED} more" if count > _NAMED else ""
    raise ConflictError(
        f"Not back: {', '.join(named)}{more}. Look at each: sdx device why D.",
        "revert_incomplete",
        rollout=found["id"],
        devices=[each["device"] for each in members],
    )


def _halted(found: dict[str, Any]) -> ConflictError:
    answer = of_rollout(msgspec.convert(found, Standing))
    advice = "\n".join(f"  {each}" for each in answer.changes)
    return ConflictError(
        f"{' '.join(answer.reasons)}\nWhat would change it:\n{advice}" if advice else " ".join(answer.reasons),
        "rollout_halted",
        rollout=found["id"],
        state=found["state"],
        last=found,
    )


@contextmanager
def _shown(console: Console) -> Iterator[Any]:
    """What shows a rollout: a frame that is drawn anew, or lines on stderr."""
    if console.as_json or not sys.stderr.isatty():
        said = [""]

        def say(found: dict[str, Any]) -> None:
            line = change_line(found)
            if line != said[0]:
                console.say(line)
                said[0] = line

        yield say
        return
    from rich.console import Console as RichConsole
    from rich.live import Live

    with Live(console=RichConsole(stderr=True), auto_refresh=False) as live:
        yield lambda found: live.update(frame(found), refresh=True)

"""What people command a rollout: approve, pause, resume, halt, revert, cancel, advance, retry, skip."""

from collections.abc import Callable
from typing import Any

import click

from sdx_hub.cli.rollout_texts import counted
from sdx_hub.cli.rollout_watch import TIMEOUT, follow, follow_back
from sdx_hub.cli.session import Session, command
from sdx_hub.publishing.hub_client import segment

_REASON = click.option("--reason", default="", metavar="TEXT", help="For the log, and for whoever looks at it later.")
_ID = click.argument("rollout", metavar="ID")


@click.command()
@_ID
@_REASON
@command(changes=True)
def approve(session: Session, rollout: str, reason: str) -> None:
    """Let a rollout begin that somebody else ordered."""
    _command(session, rollout, "approve", reason, "It begins with its first wave.")


@click.command()
@_ID
@_REASON
@command(changes=True)
def pause(session: Session, rollout: str, reason: str) -> None:
    """Offer nothing new; what is under way goes on. Asks nothing: stopping is always right."""
    _command(session, rollout, "pause", reason)


@click.command()
@_ID
@_REASON
@click.option("--watch", "watched", is_flag=True, help="Watch it from then on.")
@TIMEOUT
@command(changes=True)
def resume(session: Session, rollout: str, reason: str, watched: bool, timeout: int) -> None:
    """Go on, and accept the failures so far: they do not stop it again. A halted one needs an approver."""
    _command(
        session,
        rollout,
        "resume",
        reason,
        "The failures so far are accepted.",
        then=follow if watched else None,
        timeout=timeout,
    )


@click.command()
@_ID
@_REASON
@command(changes=True)
def halt(session: Session, rollout: str, reason: str) -> None:
    """Stop, and take open offers back. Asks nothing: stopping is always right."""
    _command(session, rollout, "halt", reason)


@click.command()
@_ID
@_REASON
@click.option("--watch", "watched", is_flag=True, help="Wait until all are back; exit code 1 when some are not.")
@TIMEOUT
@command(changes=True)
def revert(session: Session, rollout: str, reason: str, watched: bool, timeout: int) -> None:
    """Bring every touched device back to what it had, by the same machinery."""
    ask = "Every device that was offered the release gets back what it had."
    _command(session, rollout, "revert", reason, ask, then=follow_back if watched else None, timeout=timeout)


@click.command()
@_ID
@_REASON
@command(changes=True)
def cancel(session: Session, rollout: str, reason: str) -> None:
    """End it for good: open offers are taken back, and what is committed stays."""
    _command(session, rollout, "cancel", reason, "It cannot be resumed.")


@click.command()
@_ID
@_REASON
@command(changes=True)
def advance(session: Session, rollout: str, reason: str) -> None:
    """Close the open wave without waiting for quorum and soak; the gate still counts."""
    _command(session, rollout, "advance", reason, "The next wave opens at once.")


@click.command()
@_ID
@click.argument("devices", nargs=-1, metavar="[D]...")
@command(changes=True)
def retry(session: Session, rollout: str, devices: tuple[str, ...]) -> None:
    """Offer the release again to these devices, or to all that failed."""
    whom = ", ".join(devices) or "all that failed"
    path = f"/rollouts/{segment(rollout)}"
    with session.client() as hub:
        if session.dry_run:
            shown = hub.get(path)
            session.console.result(shown | {"dry_run": True}, f"Would try again: {whom}. Now: {_where(shown)}")
            return
        shown = hub.send("POST", f"{path}/retry", {"devices": list(devices) or None})
    session.console.result(shown, f"{rollout} tries again: {whom}. {_where(shown)}")


@click.command()
@_ID
@click.argument("devices", nargs=-1, required=True, metavar="D...")
@click.option("--reason", required=True, metavar="TEXT", help="Why they are left out.")
@command(changes=True)
def skip(session: Session, rollout: str, devices: tuple[str, ...], reason: str) -> None:
    """Leave devices out of a rollout."""
    path = f"/rollouts/{segment(rollout)}"
    with session.client() as hub:
        if session.dry_run:
            shown = hub.get(path)
            session.console.result(shown | {"dry_run": True}, f"Would leave out: {', '.join(devices)}.")
            return
        session.console.confirm(f"Leave {', '.join(devices)} out of {rollout}?", yes=session.yes)
        shown = hub.send("POST", f"{path}/skip", {"devices": list(devices), "reason": reason})
    session.console.result(shown, f"{rollout} leaves out: {', '.join(devices)}. {_where(shown)}")


def _command(
    session: Session,
    rollout: str,
    verb: str,
    reason: str,
    ask: str = "",
    *,
    then: Callable[..., dict[str, Any]] | None = None,
    timeout: int = 0,
) -> None:
    """Command it; `ask` is what a person has to know before saying yes, and without it nobody is asked."""
    path = f"/rollouts/{segment(rollout)}"
    with session.client() as hub:
        if ask or session.dry_run:
            shown = hub.get(path)
            if session.dry_run:
                session.console.result(shown | {"dry_run": True}, f"Would {verb} {rollout}. Now: {_where(shown)}")
                return
            session.console.confirm(f"{verb.capitalize()} {rollout}, which is {_where(shown)}? {ask}", yes=session.yes)
        shown = hub.send("POST", f"{path}/{verb}", {"reason": reason})
        if then is not None:
            shown = then(hub, rollout, session.console, timeout)
    session.console.result(shown, f"{rollout} is {_where(shown)}")


def _where(shown: dict[str, Any]) -> str:
    return f"{shown['state']} in wave {shown['wave']} of {shown['wave_count']}: {counted(shown['members'])}."

"""`sdx device pin` and `unpin`: a device that stays on what it runs, whatever rolls out."""

import click

from sdx_hub.cli.failures import NothingToDo
from sdx_hub.cli.session import Session, command
from sdx_hub.publishing.hub_client import segment

_DEVICE = click.argument("name", metavar="D")


@click.command()
@_DEVICE
@click.option("--reason", required=True, metavar="TEXT", help="Why; whoever asks about the device is told.")
@command(changes=True)
def pin(session: Session, name: str, reason: str) -> None:
    """Keep a device on what it runs: no rollout offers it anything. It can still be assigned a release by hand."""
    path = f"/devices/{segment(name)}"
    with session.client() as hub:
        held = hub.get(f"{path}/rollouts")["pin"]
        if held is not None and held["reason"] == reason:
            raise NothingToDo(f"{name} is pinned already: {reason}")
        document = {"device": name, "reason": reason}
        if session.dry_run:
            session.console.result(document | {"dry_run": True}, f"Would pin {name}: {reason}")
            return
        document |= hub.send("PUT", f"{path}/pin", {"reason": reason})
    session.console.result(document, f"{name} is pinned: {reason}")


@click.command()
@_DEVICE
@command(changes=True)
def unpin(session: Session, name: str) -> None:
    """Let rollouts have a device again."""
    path = f"/devices/{segment(name)}"
    with session.client() as hub:
        held = hub.get(f"{path}/rollouts")["pin"]
        if held is None:
            raise NothingToDo(f"{name} is not pinned.")
        if session.dry_run:
            session.console.result({"device": name, "pin": held, "dry_run": True}, f"Would unpin {name}.")
            return
        document = {"device": name} | hub.send("DELETE", f"{path}/pin")
    session.console.result(document, f"{name} is not pinned any more.")

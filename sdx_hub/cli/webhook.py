"""`sdx webhook`: addresses outside that are told of events (needs the role admin)."""

import time
from itertools import islice
from typing import Any, Final

import click

from sdx_hub.cli.console import facts, table
from sdx_hub.cli.failures import NothingToDo
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import Unavailable
from sdx_hub.publishing.hub_client import HubClient, segment

_FIELDS: Final = ("id", "state", "url", "types", "created_by", "created_at")
_DELIVERY: Final = ("event", "type", "subject", "state", "attempts", "status", "next_at", "error")
_TEST_WITHIN_S: Final = 30
_LOOK_S: Final = 0.5


@click.group()
def webhook() -> None:
    """Webhooks: addresses that are told of events, in signed messages."""


@webhook.command()
@click.argument("url")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="rollout.halted, or rollout.*; repeatable.")
@command(changes=True)
def add(session: Session, url: str, types: tuple[str, ...]) -> None:
    """Tell an address of what happens, for instance: sdx webhook add https://ops.example.org/sdx --type 'rollout.*'.

    The secret that its messages are signed with is printed once.
    """
    if session.dry_run:
        told = ", ".join(types) or "all events"
        session.console.result({"url": url, "types": list(types), "dry_run": True}, f"Would tell {url} of {told}.")
        return
    with session.client() as hub:
        made = hub.send("POST", "/webhooks", {"url": url, "types": list(types)})
    session.console.say("Keep the secret where the receiver finds it; it is not shown again.")
    session.console.result(made, lambda: facts([*_pairs(made["webhook"]), ("secret", made["secret"])]))


@webhook.command("list")
@command()
def list_(session: Session) -> None:
    """List webhooks."""
    with session.client() as hub:
        found = list(hub.pages("/webhooks"))
    session.console.result(found, lambda: table(_FIELDS, [[value for _, value in _pairs(each)] for each in found]))


@webhook.command()
@click.argument("identity", metavar="ID")
@command()
def show(session: Session, identity: str) -> None:
    """Show one webhook."""
    with session.client() as hub:
        shown = hub.get(f"/webhooks/{segment(identity)}")
    more = [(name, shown[name]) for name in ("failing_since", "disabled_at", "disabled_code") if shown[name]]
    session.console.result(shown, lambda: facts([*_pairs(shown), *more]))


@webhook.command()
@click.argument("identity", metavar="ID")
@command(changes=True)
def delete(session: Session, identity: str) -> None:
    """Delete a webhook, with what is due to it."""
    path = f"/webhooks/{segment(identity)}"
    with session.client() as hub:
        shown = hub.get(path)
        if session.dry_run:
            session.console.result(shown | {"dry_run": True}, f"Would delete {identity}: {shown['url']}")
            return
        session.console.confirm(f"Delete {identity}: {shown['url']}?", yes=session.yes)
        hub.send("DELETE", path)
    session.console.result(shown, f"{identity} is deleted.")


@webhook.command()
@click.argument("identity", metavar="ID")
@command(changes=True)
def enable(session: Session, identity: str) -> None:
    """Enable a webhook that was disabled; it is told of what happens from now on."""
    path = f"/webhooks/{segment(identity)}"
    with session.client() as hub:
        shown = hub.get(path)
        if shown["state"] != "disabled":
            raise NothingToDo(f"{identity} is not disabled.")
        if session.dry_run:
            session.console.result(shown | {"dry_run": True}, f"Would enable {identity}.")
            return
        enabled = hub.send("POST", f"{path}/enable")
    session.console.result(enabled, f"{identity} is enabled. What it missed: GET /api/v1/events, Last-Event-ID.")


@webhook.command()
@click.argument("identity", metavar="ID")
@command()
def test(session: Session, identity: str) -> None:
    """Send a test event, and say how the first attempt ended."""
    with session.client() as hub:
        sent = hub.send("POST", f"/webhooks/{segment(identity)}/test")
        ended = _first_attempt(hub, identity, sent["event"])
    if ended["state"] != "done":
        raise Unavailable(
            f"The test event was not taken: {ended['error']} It is tried again at {ended['next_at'][:19]}.",
            "webhook_test_failed",
            delivery=ended,
        )
    session.console.result(ended, f"The receiver took the test event: {ended['status']}.")


@webhook.command()
@click.argument("identity", metavar="ID")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Newest events to show.")
@command()
def deliveries(session: Session, identity: str, limit: int) -> None:
    """List what is and was on its way to a webhook."""
    with session.client() as hub:
        found = list(islice(hub.pages(f"/webhooks/{segment(identity)}/deliveries"), limit))
    session.console.result(found, lambda: table(_DELIVERY, [[each[name] for name in _DELIVERY] for each in found]))


def _first_attempt(hub: HubClient, identity: str, event: int) -> Any:
    """The delivery of an event, once it was tried.

    Raises:
        Unavailable: The hub has not tried it in time (code `webhook_test_waits`).
    """
    ends_s = time.monotonic() + _TEST_WITHIN_S
    while time.monotonic() < ends_s:
        listed = hub.pages(f"/webhooks/{segment(identity)}/deliveries")
        found = next((each for each in listed if each["event"] == event), None)
        if found is not None and found["attempts"]:
            return found
        time.sleep(_LOOK_S)
    raise Unavailable(
        f"Nothing was heard for {_TEST_WITHIN_S} s. Look later: sdx webhook deliveries {identity}.",
        "webhook_test_waits",
    )


def _pairs(shown: Any) -> list[tuple[str, object]]:
    return [(name, ", ".join(shown[name]) or "all" if name == "types" else shown[name]) for name in _FIELDS]

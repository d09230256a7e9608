"""`sdx rollout`: bring a release to devices in waves, watch it, stop it, and prove every decision."""

import secrets
from itertools import islice
from typing import Any

import click

from sdx_hub.cli.device_select import pointing_into
from sdx_hub.cli.failures import NothingToDo
from sdx_hub.cli.rollout_commands import advance, approve, cancel, halt, pause, resume, retry, revert, skip
from sdx_hub.cli.rollout_evidence import evidence
from sdx_hub.cli.rollout_order import order_of, order_options
from sdx_hub.cli.rollout_plan_text import plan_text
from sdx_hub.cli.rollout_texts import devices_text, list_text, show_text
from sdx_hub.cli.rollout_watch import TIMEOUT, follow, watch
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.rollout.states import MEMBER_STATES, ROLLOUT_STATES
from sdx_hub.publishing.hub_client import HubClient, segment

_RELEASE = click.argument("release", metavar="R")
_ID = click.argument("rollout", metavar="ID")


@click.group()
def rollout() -> None:
    """Rollouts: a release for many devices, in waves that stop themselves."""


for each in (watch, approve, pause, resume, halt, revert, cancel, advance, retry, skip, evidence):
    rollout.add_command(each)


@rollout.command()
@_RELEASE
@order_options
@command()
def plan(session: Session, /, release: str, **given: Any) -> None:
    """Say who would get a release when, and who would not and why. Changes nothing.

    \b
    sdx rollout plan mavsdk@3.18.0
    sdx rollout plan mavsdk@3.18.0 --query 'hardware = quad-x4' --waves 1,5,25%,100%
    sdx rollout plan mavsdk@3.18.0 --waves 'tag = canary' --waves 10%,100% --soak 2h --soak-flights 20
    """  # noqa: D301 - click reads this very character as: do not wrap
    order = order_of(release, given)
    with session.client() as hub:
        planned = _planned(hub, order)
    session.console.result(planned, lambda: plan_text(planned))


@rollout.command()
@_RELEASE
@order_options
@click.option("--watch", "watched", is_flag=True, help="Watch it to its end; see `sdx rollout watch`.")
@TIMEOUT
@command(changes=True)
def start(session: Session, /, release: str, watched: bool, timeout: int, **given: Any) -> None:
    """Start a rollout, after showing its plan. Options that are not given have the hub's defaults.

    \b
    sdx rollout start mavsdk@3.18.0 --waves 1,10%,100% --soak 30m --watch
    sdx rollout start mavsdk@3.18.1 --query 'tag = alpha' --urgent 'the fix for FB-12'
    """  # noqa: D301
    order = order_of(release, given)
    with session.client() as hub:
        if session.dry_run or not session.yes:
            planned = _planned(hub, order)
            if session.dry_run:
                session.console.result(planned | {"dry_run": True}, lambda: plan_text(planned))
                return
            if not planned["members"]:
                raise NothingToDo(f"No device would get {release}:\n\n{plan_text(planned)}")
            session.console.say(plan_text(planned))
            session.console.confirm(f"Start this rollout to {planned['members']} devices?", yes=False)
        with pointing_into(order.get("query", "")):
            headers = {"idempotency-key": secrets.token_hex(16)}
            shown = hub.send("POST", "/rollouts", order, headers=headers)
        session.console.say(f"{shown['id']} is {shown['state']}. {shown['reason']}".rstrip())
        if watched:
            shown = follow(hub, shown["id"], session.console, timeout)
    session.console.result(shown, lambda: show_text(shown))


@rollout.command("list")
@click.option("--state", type=click.Choice(ROLLOUT_STATES), help="Only in this state.")
@click.option("--product", default="", help="Only of this product.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to show.")
@command()
def list_(session: Session, state: str | None, product: str, limit: int) -> None:
    """List rollouts, the newest first."""
    with session.client() as hub:
        found = list(islice(hub.pages("/rollouts", state=state, product=product), limit))
    session.console.result(found, lambda: list_text(found))


@rollout.command()
@_ID
@command()
def show(session: Session, rollout: str) -> None:
    """Show a rollout: its waves, what the gate shows, what it waits for, how it was ordered."""
    with session.client() as hub:
        shown = hub.get(f"/rollouts/{segment(rollout)}")
    session.console.result(shown, lambda: show_text(shown))


@rollout.command()
@_ID
@click.option("--state", type=click.Choice(MEMBER_STATES), help="Only in this state.")
@click.option("--wave", type=click.IntRange(1), help="Only of this wave.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many to show.")
@command()
def devices(session: Session, rollout: str, state: str | None, wave: int | None, limit: int) -> None:
    """List the devices of a rollout, and what became of each."""
    with session.client() as hub:
        path = f"/rollouts/{segment(rollout)}/devices"
        found = list(islice(hub.pages(path, state=state, wave=wave), limit))
    session.console.result(found, lambda: devices_text(found))


@rollout.command()
@_ID
@click.option("--wave", type=click.IntRange(1), help="Of one wave.")
@click.option("--device", default="", metavar="D", help="Of one device.")
@command()
def why(session: Session, rollout: str, wave: int | None, device: str) -> None:
    """Say why a rollout, a wave or a device of it is where it is, and what would change it."""
    with session.client() as hub:
        answer = hub.get(f"/rollouts/{segment(rollout)}/why", wave=wave, device=device)

    def text() -> str:
        lines = [f"{rollout}: {answer['verdict'].replace('_', ' ')}", *(f"  {each}" for each in answer["reasons"])]
        changes = [f"  {each}" for each in answer["changes"]]
        return "\n".join([*lines, "What would change it:", *changes] if changes else lines)

    session.console.result({"rollout": rollout} | answer, text)


def _planned(hub: HubClient, order: dict[str, Any]) -> dict[str, Any]:
    with pointing_into(order.get("query", "")):
        planned: dict[str, Any] = hub.send("POST", "/rollouts/plan", order)
    return planned

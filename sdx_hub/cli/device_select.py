"""`sdx device preview` and `assign`: many devices at once, by name, tag or query."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from firmware_schemas.ids import parse_release_id
from sdx_hub.cli.console import facts, table
from sdx_hub.cli.failures import NothingToDo, UsageFault
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import BadInput, ConflictError
from sdx_hub.domain.query import caret

_WARNED = 10
"""Refused devices that are warned of one by one; the rest is counted."""


@contextmanager
def pointing_into(text: str) -> Iterator[None]:
    """Around a request with a query: where the hub refuses it, show the place below the text."""
    try:
        yield
    except BadInput as error:
        position = error.extra.get("position")
        if not isinstance(position, int):
            raise
        raise BadInput(f"{error}\n\n{caret(text, position)}", error.code, **error.extra) from error


@click.command()
@click.argument("query", metavar="QUERY")
@click.option("--product", default="", help="Count the versions of this product, too.")
@command()
def preview(session: Session, query: str, product: str) -> None:
    """Say who matches a query: how many, of which kind, and some of them.

    \b
    sdx device preview 'tag in (alpha, beta) and seen < 7d'
    sdx device preview 'hardware = quad-x4 and not version(mavsdk) < 3.17' --product mavsdk
    sdx device preview 'attribute.site = north or serial ~ "2024-*"'
    sdx device preview 'filter(spring) and action = failed'
    """  # noqa: D301 - click reads this very character as: do not wrap
    with session.client() as hub, pointing_into(query):
        shown = hub.send("POST", "/devices/preview", {"query": query, "product": product})
    session.console.result(shown, lambda: _preview_text(shown, product))


@click.command()
@click.argument("release", metavar="R")
@click.argument("names", nargs=-1, metavar="[D]...")
@click.option("--tag", default="", help="Instead of naming devices: all that have this tag.")
@click.option("--query", default="", metavar="QUERY", help="Instead of naming devices: all that match.")
@command(changes=True)
def assign(session: Session, release: str, names: tuple[str, ...], tag: str, query: str) -> None:
    """Make a published release the desired one of these devices, all at once; rollouts do it in waves.

    An order for many that broke off can be given again: who has the release already is left alone.
    """
    parse_release_id(release)
    if sum((bool(names), bool(tag), bool(query))) != 1:
        raise UsageFault(
            "Name either devices, a tag or a query: sdx device assign R D..., --tag T or --query Q.", "devices_or_tag"
        )
    chosen: dict[str, Any] = {"tag": tag} if tag else {"query": query} if query else {"devices": list(names)}
    whom = f"every device with the tag {tag}" if tag else ", ".join(names)
    with session.client() as hub, pointing_into(query):
        if query:
            whom = f"every device with {query}"
            if session.dry_run or not session.yes:
                seen = hub.send("POST", "/devices/preview", {"query": query})
                chosen = {"query": seen["query"]}
                whom = f"the {seen['count']} devices with {seen['query']}"
        if session.dry_run:
            session.console.result(
                {"release": release, "dry_run": True, **chosen}, f"Would assign {release} to {whom}."
            )
            return
        session.console.confirm(f"Assign {release} to {whom}?", yes=session.yes)
        answer = hub.send("POST", "/assignments", {"release": release, **chosen})
    _show_outcome(session, release, whom, answer)


def _show_outcome(session: Session, release: str, whom: str, answer: Mapping[str, Any]) -> None:
    refused, counts = answer["refused"], answer["counts"]
    done, unchanged, refusals = counts["assigned"], counts["unchanged"], sum(counts["refused"].values())
    for each in refused[:_WARNED]:
        session.console.warn(f"{each['device']}: {each['detail']} [{each['code']}]")
    if refusals > _WARNED:
        session.console.warn(f"{refusals} were refused: {_counted(counts['refused'])}.")
    if not done and not refusals:
        raise NothingToDo(f"{release} is assigned to {whom} already." if unchanged else f"There is no device: {whom}.")
    if not done and not unchanged:
        raise ConflictError(
            f"{release} was assigned to no device: all {refusals} were refused.", "all_refused", refused=refused
        )
    session.console.result(
        {"release": release, **answer},
        f"{release}: {done} assigned, {unchanged} had it already, {refusals} refused.",
    )


def _preview_text(shown: Mapping[str, Any], product: str) -> str:
    pairs: list[tuple[str, object]] = [("query", shown["query"]), ("devices", shown["count"])]
    for name in ("state", "hardware"):
        pairs.append((name, _counted(shown[f"by_{name}"])))
    if product:
        pairs.append((f"{product} runs as", _counted(shown["by_version"])))
    columns = ("serial", "id", "state", "hardware")
    rows = [[device[column] for column in columns] for device in shown["sample"]]
    return f"{facts(pairs)}\n\n{table(columns, rows)}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())

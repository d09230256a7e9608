"""`sdx filter`: queries under a name, to be used in others as `filter(NAME)`."""

import click

from sdx_hub.cli.console import facts, table
from sdx_hub.cli.device_select import pointing_into
from sdx_hub.cli.failures import NothingToDo
from sdx_hub.cli.session import Session, command
from sdx_hub.domain.errors import NotFound
from sdx_hub.publishing.hub_client import segment

_FIELDS = ("name", "query", "author", "saved_at")


@click.group()
def filter_() -> None:
    """Saved filters: queries under a name."""


@filter_.command()
@click.argument("name")
@click.argument("query", metavar="QUERY")
@command(changes=True)
def save(session: Session, name: str, query: str) -> None:
    """Save a query, for instance: sdx filter save spring 'tag = spring and state = accepted'."""
    path = f"/filters/{segment(name)}"
    with session.client() as hub, pointing_into(query):
        canonical = hub.send("POST", "/devices/preview", {"query": query})["query"]
        headers = {}
        try:
            seen = hub.request("GET", f"/api/v1{path}")
        except NotFound:
            seen = None
        if seen is not None:
            if seen.json()["query"] == canonical:
                raise NothingToDo(f"The filter {name} says this already.")
            headers = {"If-Match": seen.headers["etag"]}
        if session.dry_run:
            session.console.result({"name": name, "query": canonical, "dry_run": True}, f"Would save: {canonical}")
            return
        if seen is not None:
            session.console.confirm(f"Replace {seen.json()['query']!r} by {canonical!r}?", yes=session.yes)
        saved = hub.send("PUT", path, {"query": query}, headers=headers)
    session.console.result(saved, f"filter({name}) means: {saved['query']}")


@filter_.command("list")
@command()
def list_(session: Session) -> None:
    """List saved filters."""
    with session.client() as hub:
        found = list(hub.pages("/filters"))
    session.console.result(found, lambda: table(_FIELDS, [[str(each[name]) for name in _FIELDS] for each in found]))


@filter_.command()
@click.argument("name")
@command()
def show(session: Session, name: str) -> None:
    """Show a saved filter."""
    with session.client() as hub:
        shown = hub.get(f"/filters/{segment(name)}")
    session.console.result(shown, lambda: facts([(each, shown[each]) for each in _FIELDS]))


@filter_.command()
@click.argument("name")
@command(changes=True)
def delete(session: Session, name: str) -> None:
    """Delete a saved filter that no other one uses."""
    path = f"/filters/{segment(name)}"
    with session.client() as hub:
        seen = hub.request("GET", f"/api/v1{path}")
        shown = seen.json()
        if session.dry_run:
            session.console.result(shown | {"dry_run": True}, f"Would delete the filter {name}: {shown['query']}")
            return
        session.console.confirm(f"Delete the filter {name}: {shown['query']}?", yes=session.yes)
        hub.send("DELETE", path, headers={"If-Match": seen.headers["etag"]})
    session.console.result(shown, f"The filter {name} is deleted.")

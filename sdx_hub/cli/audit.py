"""`sdx audit list`."""

from itertools import islice

import click

from sdx_hub.cli.console import table
from sdx_hub.cli.session import Session, command


@click.group()
def audit() -> None:
    """Who changed what, and when."""


@audit.command("list")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="Newest entries to show.")
@command()
def list_(session: Session, limit: int) -> None:
    """List the audit log (needs the role admin)."""
    with session.client() as hub:
        entries = list(islice(hub.pages("/audit"), limit))
    session.console.result(
        entries,
        lambda: table(
            ("seq", "time", "actor", "action", "subject"),
            [[entry.get(name, "") for name in ("seq", "time", "actor", "action", "subject")] for entry in entries],
        ),
    )

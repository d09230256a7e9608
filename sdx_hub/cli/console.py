"""What the person or the script gets to see.

The result goes to stdout: text, or with --json exactly one JSON document. Everything else (progress, prose, questions,
warnings) goes to stderr, so that `sdx ... --json | jq` always works.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from firmware_schemas.errors import SchemaError
from sdx_hub.cli.failures import UsageFault
from sdx_hub.domain.errors import HubError


class Console:
    """Output of one command.

    Args:
        as_json: The result is JSON.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, sentence: str) -> None:
        click.echo(sentence, err=True)

    def warn(self, sentence: str) -> None:
        click.secho(f"WARNING: {sentence}", err=True, fg="yellow", bold=True)

    def result(self, document: Any, text: str | Callable[[], str]) -> None:
        """Print the result: `document` as JSON, or `text`."""
        if self.as_json:
            click.echo(json.dumps(document, ensure_ascii=False, default=str))
            return
        shown = text if isinstance(text, str) else text()
        if shown:
            click.echo(shown)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Return if the person agrees.

        Raises:
            UsageFault: There is nobody to ask (code `confirmation_missing`).
            click.Abort: The person says no.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise UsageFault(f"{question} Nobody is here to answer: add --yes.", "confirmation_missing")
        click.confirm(question, abort=True, err=True)

    @contextmanager
    def progress(self, label: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
        """A bar on stderr, where stderr is a terminal; None where nobody knows how much it will be."""
        if not sys.stderr.isatty() or (total_bytes is not None and total_bytes < 1_000_000):
            yield lambda _: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total_bytes)
            yield lambda done: bar.advance(task, done)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as text, in columns; narrow and without colours when it is piped."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console as RichConsole
    from rich.table import Table

    grid = Table(*headings, box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 200
    console = RichConsole(width=width, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Names and values, one a line."""
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def show_error(error: HubError | SchemaError, *, as_json: bool) -> None:
    """What happened, the code, and what to do: on stderr, and with --json as an object on stdout."""
    report(error.code, str(error), as_json=as_json, extra=getattr(error, "extra", {}))


def report(code: str, message: str, *, as_json: bool, extra: dict[str, Any] | None = None) -> None:
    click.secho(f"error [{code}]: ", err=True, fg="red", bold=True, nl=False)
    click.echo(message, err=True)
    if as_json:
        fault = {"code": code, "message": message} | ({"extra": extra} if extra else {})
        click.echo(json.dumps({"error": fault}, ensure_ascii=False, default=str))

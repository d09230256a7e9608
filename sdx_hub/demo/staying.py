"""A demo that stays up until Ctrl-C or `sdx demo down`, and a second one that is refused."""

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.story import RUNNING
from sdx_hub.demo.tools import program

_PEOPLES_COMMANDS = (
    "device list",
    "rollout list",
    "device why craft-01",
    "release list",
    "keys list",
    "audit list",
)


def refuse_second(folder: Path) -> None:
    """A demo's folder is one demo's.

    Raises:
        DemoError: Another one runs in it (code `demo_running`).
    """
    running = folder / RUNNING
    if running.exists():
        for pid in json.loads(running.read_text())["pids"]:
            if Path(f"/proc/{pid}").exists():
                raise DemoError(
                    f"A demo runs in {folder} already. Stop it: sdx demo down --folder {folder}.", "demo_running"
                )


def end_like_an_interrupt() -> None:
    """Have SIGTERM do what Ctrl-C does: everything that was started is stopped."""
    signal.signal(signal.SIGTERM, _interrupt)


def stay(url: str, folder: Path, variables: Sequence[tuple[str, str]] = (), more: Sequence[str] = ()) -> None:
    """Say how to look around, and wait.

    Args:
        url: Of the hub.
        folder: Of the demo.
        variables: To export, beside the person's config.
        more: Further lines.
    """
    click.echo(f"\nThe fleet stays up at {url} until Ctrl-C. Look around in another terminal:")
    for name, value in (("SDX_CONFIG", str(folder / "people" / "alice.toml")), *variables):
        click.echo(f"  export {name}={value}")
    for command in _PEOPLES_COMMANDS:
        click.echo(f"  {program('sdx')} {command}")
    for line in more:
        click.echo(f"  {line}")
    try:
        while (folder / RUNNING).exists():  # `sdx demo down` takes it away.
            time.sleep(0.5)
    except KeyboardInterrupt:
        click.echo("Stopping.")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt

"""`sdx demo up | break | down`."""

import json
import shutil
import signal
import socket
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from sdx_hub.demo import payloads
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.fleet import end_group
from sdx_hub.demo.story import PRODUCT, Demo
from sdx_hub.demo.tools import program

_FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(".demo"),
    show_default=True,
    help="Where the demo keeps everything.",
)


@click.group()
def demo() -> None:
    """A hub and a small fleet on this machine, with real software."""


@demo.command()
@click.option("--devices", type=click.IntRange(1, 64), default=8, show_default=True, help="How many craft.")
@click.option("--port", type=int, default=0, help="Of the hub; 0 takes a free one.")
@click.option("--headless", is_flag=True, help="End by itself with a summary; exit code 0 only if all came true.")
@_FOLDER
def up(devices: int, port: int, headless: bool, folder: Path) -> None:
    """Publish two real releases and a broken one to a fleet of agents; every craft rolls the broken one back."""
    folder = folder.resolve()
    _refuse_second(folder)
    cache = folder / "wheels"
    for entry in ("hub", "craft", "people", "ceremony", "payloads"):
        shutil.rmtree(folder / entry, ignore_errors=True)
    for leftover in [*folder.glob("*.sdx"), *folder.glob("*.log")]:
        leftover.unlink()
    (folder / "people").mkdir(parents=True)
    started = time.monotonic()

    def say(sentence: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.1f} s] {sentence}", err=headless)

    signal.signal(signal.SIGTERM, _interrupt)
    story = Demo(folder, devices, port or _free_port(), say)
    try:
        story.prepare_software(cache)
        story.start_hub()
        story.enrol_fleet()
        first, second = payloads.VERSIONS
        story.release(first)
        installed = story.wait_for(first, "success")
        story.release(second)
        updated = story.wait_for(second, "success")
        say(f"Proven by {updated} signed inventories: {PRODUCT}@{second} runs on every craft.")
        story.release(payloads.BROKEN_VERSION)
        rolled_back = story.wait_for(second, "rolled_back")
        say(f"The broken release was rolled back by every craft; all run {PRODUCT}@{second} again.")
        summary = {
            "devices": devices,
            "installed_first": installed,
            "updated": updated,
            "rolled_back": rolled_back,
            "running": f"{PRODUCT}@{second}",
            "seconds": round(time.monotonic() - started, 1),
        }
        click.echo(json.dumps(summary))
        if not headless:
            _stay(story, folder)
    finally:
        story.close()


@demo.command("break")
@click.option("--device", required=True, help="A serial, for instance craft-03.")
@_FOLDER
def break_(device: str, folder: Path) -> None:
    """Make one craft fail its own health check, so that its next update is rolled back."""
    marker = folder / "craft" / device.removeprefix("craft-") / "healthy"
    if not marker.parent.is_dir():
        raise DemoError(f"There is no {device} in {folder}; start the demo first: sdx demo up.", "demo_not_running")
    marker.unlink(missing_ok=True)
    click.echo(f"{device} now fails its own health check. Mend it with: touch {marker}")


@demo.command()
@_FOLDER
def down(folder: Path) -> None:
    """Stop a demo that stayed up."""
    running = folder / "running.json"
    if not running.exists():
        click.echo("No demo is running.")
        raise SystemExit(3)
    for pid in json.loads(running.read_text())["pids"]:
        end_group(pid)
    running.unlink(missing_ok=True)
    click.echo("Stopped.")


def _stay(story: Demo, folder: Path) -> None:
    config = folder / "people" / "alice.toml"
    click.echo(f"\nThe fleet stays up at {story.url} until Ctrl-C. Look around in another terminal:")
    click.echo(f"  export SDX_CONFIG={config}")
    for command in ("device list", "release list", "device show craft-01", "keys list", "audit list"):
        click.echo(f"  {program('sdx')} {command}")
    try:
        while (folder / "running.json").exists():  # `sdx demo down` takes it away.
            time.sleep(0.5)
    except KeyboardInterrupt:
        click.echo("Stopping.")


def _refuse_second(folder: Path) -> None:
    running = folder / "running.json"
    if running.exists():
        for pid in json.loads(running.read_text())["pids"]:
            if Path(f"/proc/{pid}").exists():
                raise DemoError(f"A demo runs in {folder} already. Stop it: sdx demo down.", "demo_running")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

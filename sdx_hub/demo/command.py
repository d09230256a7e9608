"""`sdx demo up | break | down`, and `sdx demo cluster`."""

import json
import shutil
import time
from pathlib import Path

import click

from sdx_hub.demo import payloads
from sdx_hub.demo.cluster.command import cluster
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.fleet import end_group
from sdx_hub.demo.one_hub import Demo
from sdx_hub.demo.servers.process import free_port
from sdx_hub.demo.staying import end_like_an_interrupt, refuse_second, stay
from sdx_hub.demo.story import RUNNING

_WAVES = "25%,50%,100%"
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


demo.add_command(cluster)


@demo.command()
@click.option("--devices", type=click.IntRange(3, 64), default=8, show_default=True, help="How many craft.")
@click.option("--port", type=int, default=0, help="Of the hub; 0 takes a free one.")
@click.option("--headless", is_flag=True, help="End by itself with a summary; exit code 0 only if all came true.")
@_FOLDER
def up(devices: int, port: int, headless: bool, folder: Path) -> None:
    """Roll a real release out to a fleet of agents; then a broken one, which stops itself and is brought back."""
    folder = folder.resolve()
    refuse_second(folder)
    cache = folder / "wheels"
    for entry in ("hub", "craft", "people", "ceremony", "payloads"):
        shutil.rmtree(folder / entry, ignore_errors=True)
    for leftover in [*folder.glob("*.sdx"), *folder.glob("*.log")]:
        leftover.unlink()
    (folder / "people").mkdir(parents=True)
    started = time.monotonic()

    def say(sentence: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.1f} s] {sentence}", err=headless)

    end_like_an_interrupt()
    story = Demo(folder, devices, port or free_port(), say)
    try:
        story.prepare_software(cache)
        story.start_hub()
        story.enrol_fleet()
        first, second = payloads.VERSIONS
        story.release(first)
        installed = story.wait_for(first, "success")
        story.offer(second, revert_to=first)
        good = story.rolling.start(f"{story.product}@{second}", _WAVES)
        updated = story.wait_for(second, "success")
        say(f"Proven by {updated} signed inventories: {story.product}@{second} runs on every craft.")
        story.offer(payloads.BROKEN_VERSION, revert_to=second)
        bad = story.rolling.start(f"{story.product}@{payloads.BROKEN_VERSION}", _WAVES)
        if not bad.halted:
            raise DemoError(f"The broken release was not stopped: {bad.id} is {bad.state}.")
        say(f"{bad.id} is {bad.state} in wave {bad.wave}: exit code 6.")
        outcome = story.bring_back(bad, second)
        say(f"Proven by signed inventories: {outcome.proven} of {devices} craft run {story.product}@{second}.")
        decisions = story.rolling.replayed(good.id) + story.rolling.replayed(bad.id)
        say(f"All {decisions} decisions were made again out of the log, and came out the same.")
        summary = {
            "devices": devices,
            "installed_first": installed,
            "updated": updated,
            "halted": bad.halted,
            "stopped_in_wave": bad.wave,
            "hurt": outcome.hurt,
            "rolled_back": outcome.hurt,
            "reverted": outcome.reverted,
            "spared": outcome.spared,
            "decisions_replayed": decisions,
            "running": f"{story.product}@{second}",
            "seconds": round(time.monotonic() - started, 1),
        }
        click.echo(json.dumps(summary))
        if not headless:
            stay(story.url, folder)
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
    running = folder / RUNNING
    if not running.exists():
        click.echo("No demo is running.")
        raise SystemExit(3)
    for pid in json.loads(running.read_text())["pids"]:
        end_group(pid)
    running.unlink(missing_ok=True)
    click.echo("Stopped.")

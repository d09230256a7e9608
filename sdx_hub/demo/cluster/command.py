"""`sdx demo cluster up`."""

import json
import shutil
import time
from pathlib import Path

import click

from sdx_hub.demo.cluster.cluster import Cluster
from sdx_hub.demo.cluster.proxy import find_nginx, find_template
from sdx_hub.demo.cluster.story import FIRST, SECOND, THIRD, ClusterStory
from sdx_hub.demo.cluster.topology import HUBS
from sdx_hub.demo.staying import end_like_an_interrupt, refuse_second, stay

_WAVES = "50%,100%"


@click.group()
def cluster() -> None:
    """Two hubs, PostgreSQL, an S3 server and a proxy with TLS, as processes of this machine."""


@cluster.command()
@click.option("--devices", type=click.IntRange(1, 64), default=4, show_default=True, help="How many craft.")
@click.option("--headless", is_flag=True, help="End by itself with a summary; exit code 0 only if all came true.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(".demo/cluster"),
    show_default=True,
    help="Where the cluster keeps everything; what an earlier one left there is removed.",
)
def up(devices: int, headless: bool, folder: Path) -> None:
    """Publish, update and roll out through the proxy, with one replica killed in the middle; then bring it back."""
    find_nginx()
    find_template()
    folder = folder.resolve()
    refuse_second(folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "people").mkdir(parents=True)
    started = time.monotonic()

    def say(sentence: str) -> None:
        click.echo(f"[{time.monotonic() - started:5.1f} s] {sentence}", err=headless)

    end_like_an_interrupt()
    made = Cluster(folder, {"SDX_ROLLOUT_TICK_MS": "200"}, poll_jitter_s=1)
    story = ClusterStory(made, devices, say)
    try:
        story.make_payloads()
        story.start_cluster()
        story.enrol_fleet()
        story.release(FIRST)
        installed = story.wait_for(FIRST, "success")
        story.build(SECOND)
        story.publish(SECOND)
        story.lose_a_replica()
        updated = story.wait_for(SECOND, "success")
        say(f"Proven by {updated} signed inventories: nothing that was under way at the kill was lost.")
        rolled_out = story.rolling.start(f"{story.product}@{THIRD}", _WAVES, "--soak", "1s")
        finished = story.wait_for(THIRD, "success")
        say(f"{rolled_out.id} is {rolled_out.state}: one replica was enough for it.")
        story.bring_it_back()
        findings = made.doctor()
        say(f"sdx hub doctor: {len(findings)} checks, all well.")
        summary = {
            "devices": devices,
            "installed": installed,
            "killed": HUBS[0],
            "upload_resumed_at": story.upload_resumed_at,
            "upload_at_kill": story.upload_at_kill,
            "updating_at_kill": story.updating_at_kill,
            "updated": updated,
            "finished": finished,
            "rollout": rolled_out.state,
            "running": f"{story.product}@{THIRD}",
            "checks": len(findings),
            "seconds": round(time.monotonic() - started, 1),
        }
        click.echo(json.dumps(summary))
        if not headless:
            metrics = [
                f"curl {hub.url}/metrics  # {name}; the proxy does not offer it" for name, hub in made.hubs.items()
            ]
            stay(story.url, folder, [("SSL_CERT_FILE", str(made.ca))], metrics)
    finally:
        story.close()

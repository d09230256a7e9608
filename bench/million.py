"""A million devices on two replicas and PostgreSQL, all upon this machine, and the clients with them.

load        the rows of so many devices, multiplied from one that enrolled for real (bench/fleet_of_rows.py)
start-up    from exec until a replica answers: each alone, and both at once
sweep       every device polls once, each with its own token: an open loop at the rate of a fleet that polls once a
            minute, over kept connections to both replicas; a latency counts from when the poll was due
last-seen   devices that are stored as seen since the sweep began
release     while they go on polling, a release is published, and one request assigns it to a tenth of them: until
            no replica gives an old answer, and until the last of these devices has heard of it by its own poll
memory      PSS and RSS of all hub processes together, the largest sums of a phase
"""

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from msgspec import Struct
from sqlalchemy.engine import make_url

from bench import fleet_of_rows, hubs
from bench.open_loop import Clients, Outcome, Share, between, clients
from bench.watch import Watch, watching
from sdx_hub.demo.servers.postgres import PostgresServer
from tests.support.fleet import Fleet
from tests.support.hub import HubProcess
from tests.support.publisher import Payload

DEVICES = 1_000_000
INTERVAL_S = 60
CONNECTIONS = 3_000
CLIENTS = 2
STARTS = 3
SUSTAINED = 0.99
MOST_PSS_MIB = 700
MOST_START_S = 5.0
BEFORE_S = 5.0
"""So long the fleet polls before the release is assigned."""
STALE_S = 10.0
"""The hub's default: no replica gives an answer that is older."""
STORED_WITHIN_S = 15.0
"""What was seen and is not stored by then is lost."""
Figures = dict[str, Any]
_T = TypeVar("_T")


class Plan(Struct, frozen=True):
    """What the command line asks for.

    Attributes:
        rate: Polls a second.
        seconds: The sweep takes at least so long.
    """

    devices: int
    rate: float
    seconds: float
    connections: int

    @property
    def sweep_s(self) -> float:
        return max(self.seconds, self.devices / self.rate)

    def shares(self, ports: Sequence[int]) -> list[Share]:
        """The devices, dealt out to the client processes."""
        bounds = [self.devices * number // CLIENTS for number in range(CLIENTS + 1)]
        return [
            Share(ports, first, end - first, self.connections // CLIENTS, self.rate * (end - first) / self.devices)
            for first, end in pairwise(bounds)
        ]


class Scene(Struct, frozen=True):
    """What runs: PostgreSQL, and two replicas upon it."""

    database: PostgresServer
    fleet: Fleet
    replicas: Sequence[HubProcess]

    @property
    def pids(self) -> list[int]:
        return [replica.pid for replica in self.replicas]


def measure(folder: Path, plan: Plan) -> Figures:
    with (
        hubs.postgres(folder / "postgres") as database,
        hubs.fleet_on(folder / "first", database.url) as fleet,
        hubs.another_replica(fleet, folder / "second", database.url) as second,
    ):
        scene = Scene(database, fleet, [fleet.hub, second])
        figures: Figures = {"cores": os.cpu_count(), "devices": plan.devices, "asked_polls_per_s": round(plan.rate)}
        figures["load_s"] = load(scene, plan)
        figures["start_up"] = start_up(scene)
        with clients(plan.shares([replica.port for replica in scene.replicas])) as polls:
            figures["sweep"] = sweep(scene, plan, polls)
            figures["release"] = release(scene, plan, polls)
        return figures


def load(scene: Scene, plan: Plan) -> float:
    """Fill the database; leaves no hub running."""
    example = fleet_of_rows.enrol_first(scene.fleet)
    began = time.monotonic()
    fleet_of_rows.load(scene.database.url, example, 0, plan.devices)
    scene.fleet.hub.stop()
    return say("load_s", round(time.monotonic() - began, 1))


def start_up(scene: Scene) -> Figures:
    """Leaves both replicas running."""
    alone = []
    for replica in [*scene.replicas] * STARTS:
        alone.append(replica.start())
        replica.stop()
    with ThreadPoolExecutor(len(scene.replicas)) as pool:
        together = list(pool.map(HubProcess.start, scene.replicas))
    return say(
        "start_up",
        {
            "alone_s": [round(min(alone), 2), round(max(alone), 2)],
            "together_s": round(max(together), 2),
            "holds": max(*alone, *together) <= MOST_START_S,
        },
    )


def sweep(scene: Scene, plan: Plan, polls: Clients) -> Figures:
    since_s = int(time.time())
    with watching(scene.pids, scene.database.pid) as watch:
        began = polls.start(plan.sweep_s)
        found = polls.outcomes()
    took_s = max(one.ended for one in found) - began
    figures = phase(watch, found, began, began + plan.sweep_s)
    rate = sum(one.statuses["304"] for one in found) / took_s
    if not (sustained := rate >= SUSTAINED * plan.rate):
        print(
            f"The machine gave {rate:,.0f} polls/s: less than was asked for. Try --rate {rate * 0.9:.0f}.", flush=True
        )
    stored = asyncio.run(stored_as_seen(scene.database.url, since_s, plan.devices))
    return say(
        "sweep",
        {
            "seconds": round(took_s, 1),
            "polls_per_s": round(rate),
            "sustained": sustained,
            "last_seen_stored": stored,
            **figures,
        },
    )


def release(scene: Scene, plan: Plan, polls: Clients) -> Figures:
    marked = math.ceil(plan.devices / fleet_of_rows.GROUPS)
    scene.fleet.publisher.publish("bench", "1.0.0", [Payload("app", b"bench 1.0.0")])
    with watching(scene.pids, scene.database.pid) as watch:
        polls.start(math.inf)
        time.sleep(BEFORE_S)
        asked = time.monotonic()
        assigned = assign(scene.fleet, "bench@1.0.0", fleet_of_rows.tag(0))
        answered = time.monotonic()
        time.sleep(plan.devices / plan.rate + STALE_S)  # Every device polls once more, and nothing old is left.
        polls.stop()
        found = polls.outcomes()
    if assigned != marked + 1:  # One more: the device that enrolled for real.
        raise RuntimeError(f"{assigned} devices were assigned, and not {marked + 1}.")
    heard = max(one.updated_at for one in found)
    outdated = max(at for one in found for at in one.outdated_at)
    return say(
        "release",
        {
            "devices": marked,
            "heard": sum(one.updated for one in found),
            "assigned_s": round(answered - asked, 2),
            "last_old_answer_s": round(outdated - asked, 3),
            "old_answers_after_commit_s": round(max(0.0, outdated - answered), 3),
            "last_device_heard_s": round(heard - asked, 1),
            **phase(watch, found, asked, heard),
        },
    )


def phase(watch: Watch, found: Sequence[Outcome], start: float, end: float) -> Figures:
    """Latencies of the polls that were due in this time, and what the whole phase cost."""
    ordered = between(found, start, end)
    statuses = sum((one.statuses for one in found), Counter[str]())
    *replicas, database = watch.cpu_s
    for one in found:
        if one.first_wrong:
            print(f"  an answer that is neither 200 nor 304: {one.first_wrong!r}", flush=True)
    return {
        "p50_ms": round(ordered[len(ordered) // 2] * 1000, 2),
        "p99_ms": round(ordered[len(ordered) * 99 // 100] * 1000, 2),
        "worst_ms": round(ordered[-1] * 1000, 1),
        "statuses": dict(statuses),
        "reconnects": sum(one.reconnects for one in found),
        "hubs_pss_mib": round(watch.pss_mib),
        "hubs_rss_mib": round(watch.rss_mib),
        "memory_holds": watch.pss_mib <= MOST_PSS_MIB,
        "hubs_cores": [round(spent / watch.seconds, 2) for spent in replicas],
        "database_cores": round(database / watch.seconds, 2),
        "clients_cores": [round(one.cpu_s / watch.seconds, 2) for one in found],
    }


def assign(fleet: Fleet, release_id: str, tag: str) -> int:
    """Assign to everything with a tag; return to how many devices."""
    with fleet.client() as client:
        answer = client.post("/api/v1/assignments", json={"release": release_id, "tag": tag}, timeout=600)
        return int(answer.raise_for_status().json()["counts"]["assigned"])


async def stored_as_seen(database_url: str, since_s: int, expected: int) -> int:
    """Wait until so many devices are stored as seen since then, or until what is missing is lost."""
    dsn = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(dsn)
    end = time.monotonic() + STORED_WITHIN_S
    try:
        while True:
            stored = await connection.fetchval("SELECT count(*) FROM device_seen WHERE last_seen_s >= $1", since_s)
            if stored >= expected or time.monotonic() > end:
                return int(stored)
            await asyncio.sleep(0.5)
    finally:
        await connection.close()


def say(name: str, figures: _T) -> _T:
    print(f"{name}: {json.dumps(figures)}", flush=True)
    return figures


def table(figures: Any) -> str:
    """Rows for docs/performance.md."""
    start, swept, changed = figures["start_up"], figures["sweep"], figures["release"]
    return "\n".join(
        [
            "| | steady | a release for a tenth of them |",
            "|---|---|---|",
            f"| polls/s | {swept['polls_per_s']:,} of {figures['asked_polls_per_s']:,} asked for, "
            f"{swept['seconds']:g} s | the same |",
            f"| p50, p99, worst | {swept['p50_ms']:g}, {swept['p99_ms']:g}, {swept['worst_ms']:g} ms "
            f"| {changed['p50_ms']:g}, {changed['p99_ms']:g}, {changed['worst_ms']:g} ms |",
            f"| hubs, PSS (RSS) | {swept['hubs_pss_mib']} ({swept['hubs_rss_mib']}) MiB "
            f"| {changed['hubs_pss_mib']} ({changed['hubs_rss_mib']}) MiB |",
            f"| cores of replicas; PostgreSQL; clients | {cores(swept)} | {cores(changed)} |",
            f"| last-seen stored | {swept['last_seen_stored']:,} of {figures['devices']:,} | |",
            f"| start-up | {start['alone_s'][0]:g} to {start['alone_s'][1]:g} s alone, "
            f"{start['together_s']:g} s both at once | |",
            f"| assigned; last old answer; last device heard | | {changed['assigned_s']:g} s; "
            f"{changed['last_old_answer_s']:g} s; {changed['last_device_heard_s']:g} s after the request "
            f"({changed['heard']:,} of {changed['devices']:,}) |",
        ]
    )


def cores(figures: Any) -> str:
    replicas, drivers = (" + ".join(f"{one:g}" for one in figures[name]) for name in ("hubs_cores", "clients_cores"))
    return f"{replicas}; {figures['database_cores']:g}; {drivers}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=DEVICES)
    parser.add_argument("--rate", type=float, help="polls a second; every device once a minute where not given")
    parser.add_argument("--seconds", type=float, default=20.0, help="the sweep takes at least so long")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="kept, on both replicas together")
    chosen = parser.parse_args()
    plan = Plan(chosen.devices, chosen.rate or chosen.devices / INTERVAL_S, chosen.seconds, chosen.connections)
    with tempfile.TemporaryDirectory(prefix="sdx-bench-") as folder:
        figures = measure(Path(folder), plan)
    print(table(figures))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Polls for each CPU-second of the server: this hub, goosebit, and nginx; same machine, same client, same run.

All are real servers on loopback with one worker each, on one core; the client has the other one, and keeps as many
connections to each of them, spread over all devices. What is counted is answers that say what they should.

    goosebit        GET /DEFAULT/controller/v1/ID; no device authentication (its default); SQLite (its default)
    hub SQLite      GET /device/v1/poll with the device's own bearer token and If-None-Match: 304; last-seen is stored
    hub PostgreSQL  the same; the CPU of PostgreSQL, on the same core, is counted apart (and with it: "all")
    hub 200         on SQLite, with the version before: the whole answer
    nginx           the very same request as to the hub, for a static file: a conditional GET, answered by a real 304

CPU seconds are user and system time of a server and all its children, from /proc/PID/stat. Rounds alternate. `busy` is
the part of its core that a server used: where it is not near 1, the client was the limit, and the server woke up for
fewer requests at once, which costs it more for each.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from bench import goosebit_peer, hubs, load, nginx_peer
from bench.fleet_of_keys import Device, enrol, polls
from bench.processes import cpu_s, tree
from tests.support.craft import HARDWARE
from tests.support.fleet import Fleet
from tests.support.publisher import Payload

DEVICES = 1000
CONNECTIONS = 100
WARM_UP_S = 1.0
MIN_ROUNDS = 3
AIM_GOOSEBIT, AIM_NGINX = 100, 0.2
STORED_WITHIN_S = 10.0
GOOSEBIT, SQLITE, POSTGRES, WHOLE, NGINX = "goosebit", "hub SQLite", "hub PostgreSQL", "hub 200", "nginx"
_PEER = Path(__file__).resolve().parent.parent / ".bench" / "goosebit"


class Round(Struct, frozen=True):
    """One server under load for a while.

    Attributes:
        polls_per_all_cpu_s: With the CPU of the database's own processes.
        busy: CPU seconds for each second, the database's included.
    """

    polls_per_cpu_s: float
    polls_per_all_cpu_s: float
    polls_per_s: float
    p50_ms: float
    p99_ms: float
    busy: float


class Subject(Struct, frozen=True):
    """What is measured: a server's process and port, the requests, and the right answer; and its database's process."""

    name: str
    pid: int
    port: int
    requests: Sequence[bytes]
    expected: Callable[[bytes], bool]
    database: int | None = None

    def measure(self, seconds: float) -> Round:
        for length in (WARM_UP_S, seconds):
            before = self._spent()
            tally = load.run(self.port, self.requests, self.expected, seconds=length, connections=CONNECTIONS)
            server_s, database_s = (now - then for now, then in zip(self._spent(), before, strict=True))
        if tally.wrong:
            raise RuntimeError(f"{self.name} gave {tally.wrong} wrong answers, first: {tally.first_wrong}")
        return Round(
            tally.correct / server_s,
            tally.correct / (server_s + database_s),
            tally.correct / tally.seconds,
            tally.percentile_ms(0.5),
            tally.percentile_ms(0.99),
            (server_s + database_s) / tally.seconds,
        )

    def _spent(self) -> tuple[float, float]:
        return cpu_s(self.pid), cpu_s(self.database) if self.database else 0.0


def is_unchanged(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 304")


def is_answer(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200") and b'"desired_version":1' in answer


def compare(folder: Path, rounds: int, seconds: float) -> dict[str, list[Round]]:
    python = goosebit_peer.environment(_PEER)
    print(f"{goosebit_peer.version(python)}; {nginx_peer.version()}; {DEVICES} devices, {CONNECTIONS} connections")
    with ExitStack() as running:
        subjects = [a_goosebit(running, folder, python)]
        fleets = []
        for name, url, database in ((SQLITE, "", None), (POSTGRES, *a_database(running, folder))):
            fleet = running.enter_context(hubs.fleet_on(folder / name, url))
            fleets.append(fleet)
            pin(fleet.hub.pid, 0)
            devices = assigned_devices(fleet)
            asked = polls(fleet.url, devices)
            subjects.append(Subject(name, fleet.hub.pid, fleet.hub.port, asked, is_unchanged, database))
            if not url:
                older = [load.poll_request(device.token.encode(), 0) for device in devices]
                subjects.append(Subject(WHOLE, fleet.hub.pid, fleet.hub.port, older, is_answer))
        subjects.append(an_nginx(running, folder, devices))
        os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
        began = datetime.now(UTC).replace(microsecond=0)
        found = in_turn(subjects, rounds, seconds)
        for fleet in fleets:
            require_stored(fleet, began)
        return found


def a_goosebit(running: ExitStack, folder: Path, python: Path) -> Subject:
    pid, port = running.enter_context(goosebit_peer.server(python, folder / "goosebit", 0))
    names = [f"bench-{number:04}" for number in range(DEVICES)]
    goosebit_peer.register(port, names)
    requests = [load.request(goosebit_peer.path_of(name)) for name in names]
    return Subject(GOOSEBIT, pid, port, requests, goosebit_peer.is_idle)


def a_database(running: ExitStack, folder: Path) -> tuple[str, int]:
    server = running.enter_context(hubs.postgres(folder / "postgres"))
    pin(server.pid, 0)
    return server.url, server.pid


def an_nginx(running: ExitStack, folder: Path, devices: Sequence[Device]) -> Subject:
    pid, port, etag = running.enter_context(nginx_peer.server(folder / "nginx"))
    pin(pid, 0)
    requests = [
        load.request("/device/v1/poll", f"authorization: Bearer {device.token}", f"if-none-match: {etag}")
        for device in devices
    ]
    return Subject(NGINX, pid, port, requests, is_unchanged)


def assigned_devices(fleet: Fleet) -> list[Device]:
    """Devices that enrolled, and whose desired state has the version 1."""
    devices = enrol(fleet.url, fleet.admin_token, DEVICES, HARDWARE)
    fleet.publisher.publish("bench", "1.0.0", [Payload("app", b"bench")])
    done = fleet.publisher.assign("bench@1.0.0", *(device.id for device in devices))
    if len(done["assigned"]) != DEVICES:
        raise RuntimeError(f"Only {len(done['assigned'])} devices were assigned: {done['refused'][:1]}")
    return devices


def in_turn(subjects: Sequence[Subject], rounds: int, seconds: float) -> dict[str, list[Round]]:
    found: dict[str, list[Round]] = {subject.name: [] for subject in subjects}
    for number in range(1, rounds + 1):
        for subject in subjects:
            one = subject.measure(seconds)
            found[subject.name].append(one)
            print(
                f"round {number}  {subject.name:<14} {one.polls_per_cpu_s:>9,.0f} polls per CPU-second"
                f" ({one.polls_per_all_cpu_s:>9,.0f} all)  {one.polls_per_s:>9,.0f} polls/s"
                f"  p50 {one.p50_ms:7.2f} ms  p99 {one.p99_ms:7.2f} ms  busy {one.busy:4.0%}",
                flush=True,
            )
    return found


def require_stored(fleet: Fleet, since: datetime) -> None:
    """Every device is stored as seen since then."""
    end = time.monotonic() + STORED_WITHIN_S
    while (missing := DEVICES - seen(fleet, since)) > 0:
        if time.monotonic() > end:
            raise RuntimeError(f"{missing} of {DEVICES} devices polled and were not stored as seen.")
        time.sleep(0.5)


def seen(fleet: Fleet, since: datetime) -> int:
    count, following = 0, "/api/v1/devices?limit=500"
    with fleet.client() as client:
        while following:
            page = client.get(following).raise_for_status()
            times = [device["last_seen_at"] for device in page.json()["items"]]
            count += sum(1 for time_ in times if time_ and datetime.fromisoformat(time_) >= since)
            following = page.links.get("next", {}).get("url", "")
    return count


def pin(root: int, core: int) -> None:
    """Keep a server, all its threads and what it starts later on one core."""
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):  # It has just ended.
            for task in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), {core})


def spread(values: Sequence[float], digits: int = 1) -> list[float]:
    """Minimum, median, maximum."""
    return [round(min(values), digits), round(statistics.median(values), digits), round(max(values), digits)]


def ratios(found: Mapping[str, list[Round]], name: str, peer: str) -> list[float]:
    """By round: the polls per CPU-second of a subject, in those of a peer. Minimum, median, maximum."""
    pairs = zip(found[name], found[peer], strict=True)
    return spread([ours.polls_per_cpu_s / theirs.polls_per_cpu_s for ours, theirs in pairs], 3)


def figures_of(rounds: Sequence[Round]) -> dict[str, list[float]]:
    return {
        name: spread([getattr(one, name) for one in rounds], 2 if name.endswith("ms") or name == "busy" else 0)
        for name in Round.__struct_fields__
    }


def table(figures: Mapping[str, Mapping[str, list[float]]], by_peer: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Rows for docs/performance.md."""
    lines = [
        "| | polls per CPU-second | with the database's | p50 | p99 | busy | of goosebit | of nginx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in figures.items():
        low, middle, high = by_peer[GOOSEBIT][name]
        ours = name not in {GOOSEBIT, NGINX}
        lines.append(
            f"| {name} | {found['polls_per_cpu_s'][1]:,.0f} | {found['polls_per_all_cpu_s'][1]:,.0f} "
            f"| {found['p50_ms'][1]:.1f} ms | {found['p99_ms'][1]:.1f} ms | {found['busy'][1]:.0%} "
            f"| {f'{low:.0f}, **{middle:.0f}**, {high:.0f}' if ours else ''} "
            f"| {', '.join(f'{ratio:.2f}' for ratio in by_peer[NGINX][name]) if ours else ''} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help=f"at least {MIN_ROUNDS}")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdx-bench-") as place:
        found = compare(Path(place), max(chosen.rounds, MIN_ROUNDS), chosen.seconds)
    figures = {name: figures_of(rounds) for name, rounds in found.items()}
    by_peer = {peer: {name: ratios(found, name, peer) for name in found} for peer in (GOOSEBIT, NGINX)}
    print(table(figures, by_peer))
    holds = {
        name: by_peer[GOOSEBIT][name][1] >= AIM_GOOSEBIT and by_peer[NGINX][name][1] >= AIM_NGINX
        for name in (SQLITE, POSTGRES)
    }
    print(
        json.dumps({**figures, "ratios": by_peer, "aims": {GOOSEBIT: AIM_GOOSEBIT, NGINX: AIM_NGINX}, "holds": holds})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

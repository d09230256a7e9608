"""Polls for each CPU-second of the server: goosebit and this hub, 1,000 devices, nothing to do, same client, same run.

Both are real servers on loopback with one worker each, pinned to one core; the client has the other one, and spreads
over many kept connections and all devices. What is counted is answers that say what they should.

    goosebit    GET /DEFAULT/controller/v1/ID; no device authentication (its default); SQLite (its default)
    hub 304     GET /device/v1/poll with the device's own bearer token and If-None-Match; SQLite
    hub 200     the same without If-None-Match: the whole answer

CPU seconds are user and system time of the server and all its children, from /proc/PID/stat. Rounds alternate.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from bench import goosebit_peer, load
from bench.fleet_of_keys import Device, enrol, etags
from bench.processes import cpu_s, tree
from tests.support.craft import HARDWARE
from tests.support.fleet import start_fleet
from tests.support.publisher import Payload

DEVICES = 1000
CONNECTIONS = 100
WARM_UP_S = 1.0
AIM = 60
_PEER = Path(__file__).resolve().parent.parent / ".bench" / "goosebit"


class Round(Struct, frozen=True):
    """One server under load for a while."""

    polls_per_cpu_s: float
    polls_per_s: float
    p50_ms: float
    p99_ms: float
    busy: float
    """CPU seconds of the server for each second: near 1.0 says that the client was not what limited it."""


class Subject(Struct, frozen=True):
    """What is measured: a server's process and port, the requests, and the right answer."""

    name: str
    pid: int
    port: int
    requests: Sequence[bytes]
    expected: Callable[[bytes], bool]

    def measure(self, seconds: float) -> Round:
        for length in (WARM_UP_S, seconds):
            before_s = cpu_s(self.pid)
            tally = load.run(self.port, self.requests, self.expected, seconds=length, connections=CONNECTIONS)
            spent_s = cpu_s(self.pid) - before_s
        if tally.wrong:
            raise RuntimeError(f"{self.name} gave {tally.wrong} wrong answers, first: {tally.first_wrong}")
        return Round(
            tally.correct / spent_s,
            tally.correct / tally.seconds,
            tally.percentile_ms(0.5),
            tally.percentile_ms(0.99),
            spent_s / tally.seconds,
        )


def request(port: int, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"host: 127.0.0.1:{port}", *headers, "", ""]).encode()


def polls(port: int, devices: Sequence[Device], known: Sequence[str] | None) -> list[bytes]:
    found = []
    for index, device in enumerate(devices):
        headers = [f"authorization: Bearer {device.token}"]
        if known is not None:
            headers.append(f"if-none-match: {known[index]}")
        found.append(request(port, "/device/v1/poll", *headers))
    return found


def is_unchanged(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 304")


def is_answer(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200") and b'"desired_version":' in answer


def compare(folder: Path, rounds: int, seconds: float) -> dict[str, list[Round]]:
    python = goosebit_peer.environment(_PEER)
    print(f"{goosebit_peer.version(python)}, SQLite; {DEVICES} devices, {CONNECTIONS} connections")
    with start_fleet(folder / "fleet") as fleet, goosebit_peer.server(python, folder / "goosebit", 0) as (pid, port):
        pin(fleet.hub.pid, 0)
        os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
        names = [f"bench-{number:04}" for number in range(DEVICES)]
        goosebit_peer.register(port, names)
        devices = enrol(fleet.url, fleet.publisher.token, DEVICES, HARDWARE)
        fleet.publisher.publish("bench", "1.0.0", [Payload("app", b"bench")])
        done = fleet.publisher.assign("bench@1.0.0", *(device.id for device in devices))
        if len(done["assigned"]) != DEVICES:
            raise RuntimeError(f"Only {len(done['assigned'])} devices were assigned: {done['refused'][:1]}")
        ours = int(fleet.url.rpartition(":")[2])
        subjects = [
            Subject(
                "goosebit",
                pid,
                port,
                [request(port, goosebit_peer.path_of(name)) for name in names],
                goosebit_peer.is_idle,
            ),
            Subject("hub 304", fleet.hub.pid, ours, polls(ours, devices, etags(fleet.url, devices)), is_unchanged),
            Subject("hub 200", fleet.hub.pid, ours, polls(ours, devices, None), is_answer),
        ]
        found: dict[str, list[Round]] = {subject.name: [] for subject in subjects}
        for number in range(1, rounds + 1):
            for subject in subjects:
                one = subject.measure(seconds)
                found[subject.name].append(one)
                print(
                    f"round {number}  {subject.name:<9} {one.polls_per_cpu_s:>9,.0f} polls per CPU-second"
                    f"  {one.polls_per_s:>9,.0f} polls/s  p50 {one.p50_ms:7.2f} ms  p99 {one.p99_ms:7.2f} ms"
                    f"  server busy {one.busy:4.0%}",
                    flush=True,
                )
        return found


def pin(root: int, core: int) -> None:
    """Keep a server and all its threads on one core."""
    for pid in tree(root):
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


def spread(values: Sequence[float], digits: int = 1) -> list[float]:
    """Minimum, median, maximum."""
    return [round(min(values), digits), round(statistics.median(values), digits), round(max(values), digits)]


def ratios(found: dict[str, list[Round]], name: str) -> list[float]:
    """By round: the polls per CPU-second of a subject, in those of goosebit. Minimum, median, maximum."""
    pairs = zip(found[name], found["goosebit"], strict=True)
    return spread([ours.polls_per_cpu_s / theirs.polls_per_cpu_s for ours, theirs in pairs])


def figures_of(rounds: Sequence[Round]) -> dict[str, list[float]]:
    return {
        "polls_per_cpu_s": spread([one.polls_per_cpu_s for one in rounds], 0),
        "polls_per_s": spread([one.polls_per_s for one in rounds], 0),
        "p50_ms": spread([one.p50_ms for one in rounds], 2),
        "p99_ms": spread([one.p99_ms for one in rounds], 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="at least 3")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdx-bench-") as place:
        found = compare(Path(place), max(chosen.rounds, 3), chosen.seconds)
    document: dict[str, object] = {name: figures_of(rounds) for name, rounds in found.items()}
    for kind in ("304", "200"):
        low, middle, high = document[f"ratio_{kind}"] = ratios(found, f"hub {kind}")
        print(f"hub {kind} : goosebit, polls per CPU-second   min {low}   median {middle}   max {high}   (aim {AIM})")
    print(json.dumps({**document, "aim": AIM}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

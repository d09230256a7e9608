"""How cost grows with the fleet: the same hub upon 1,000, 10,000, 100,000 and 1,000,000 devices.

    start-up        from exec until it answers; the median of three
    a poll          CPU of the hub: 304, all tokens in turn over 100 kept connections, last-seen stored
    memory          PSS of all its processes, the largest while it is polled
    signing         CPU of the hub and of PostgreSQL for each of 1,000 devices that ask the director at once for what
                    was just assigned to them: targets, snapshot and timestamp are signed and stored
    a page          of 100 devices, out of the middle of the list; median time of the answer
    a preview       of whom a query selects, by tag and by version; median time of the answer

PostgreSQL and SQLite in turn. The table and the plot go into docs/performance.md and docs/growth.svg.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import overload

from httpx import codes
from msgspec import Struct, field, structs

from bench import chart, fleet_of_rows, hubs, load
from bench.poll import is_unchanged
from bench.watch import watching
from sdx_hub.services.paging import encode_cursor
from tests.support.fleet import Fleet
from tests.support.publisher import Payload

SIZES = (1_000, 10_000, 100_000, 1_000_000)
BACKENDS = ("PostgreSQL", "SQLite")
STARTS = 3
ASKS = 11
CONNECTIONS = 100
SIGNED = 1_000
DOCS = Path(__file__).parent.parent / "docs"
QUERIES = {"tag": "tag = group-3 and state = accepted", "version": "version(bench) < 1.0.0 and not tag = group-3"}
_STRIDE = 611_953
"""A prime: connections visit the devices in another order than they enrolled in."""
_MARKED = re.compile(r"(<!-- growth:begin -->\n).*(<!-- growth:end -->)", re.DOTALL)


class Point(Struct, frozen=True):
    """The costs at one size of the fleet."""

    poll_us: float
    memory_mib: float
    start_up_s: float
    signing_us: float
    page_ms: float
    tag_preview_ms: float
    version_preview_ms: float


ROWS = {
    "poll_us": "a poll, µs of CPU",
    "memory_mib": "memory of the hub (PSS), MiB",
    "start_up_s": "start-up, s",
    "signing_us": "signing for a device, µs of CPU",
    "page_ms": "a page of 100 devices, ms",
    "tag_preview_ms": "preview of a tag (a tenth of all), ms",
    "version_preview_ms": "preview of a version (nine tenths), ms",
}


class Polls(Sequence[bytes]):
    """The requests of so many devices, made when they are asked for: a million of them would fill the memory.

    Args:
        count: How many.
        assigned: Indices of those that have heard of a desired state.
    """

    def __init__(self, count: int, assigned: Collection[int]) -> None:
        self._count, self._assigned = count, assigned

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(self._count))]
        index = at * _STRIDE % self._count
        return load.poll_request(fleet_of_rows.TOKEN_FORMAT % index, int(index in self._assigned))


class Subject(Struct, frozen=True):
    """A hub, and its database.

    Attributes:
        database: The main process of its server; none for SQLite.
        assigned: Indices of devices with an assignment.
    """

    fleet: Fleet
    database_url: str
    database: Sequence[int]
    assigned: set[int] = field(default_factory=set)


@contextmanager
def subject(backend: str, folder: Path) -> Iterator[Subject]:
    if backend == "PostgreSQL":
        with hubs.postgres(folder / "postgres") as server, hubs.fleet_on(folder / "fleet", server.url) as fleet:
            yield Subject(fleet, server.url, [server.pid])
    else:
        with hubs.fleet_on(folder / "fleet", "") as fleet:
            yield Subject(fleet, f"sqlite:///{fleet.hub.data / 'hub.db'}", [])


def grow(backend: str, folder: Path, sizes: Sequence[int], seconds: float) -> dict[int, Point]:
    found: dict[int, Point] = {}
    with subject(backend, folder) as hub:
        example = fleet_of_rows.enrol_first(hub.fleet)
        hub.fleet.publisher.publish("bench", "1.0.0", [Payload("app", b"bench 1.0.0")])
        before = 0
        for size in sizes:
            hub.fleet.hub.stop()
            fleet_of_rows.load(hub.database_url, example, before, size - before)
            found[size] = measure(hub, size, range(before, before + min(SIGNED, size - before)), seconds)
            print(f"{backend}, {size:,} devices: {json.dumps(structs.asdict(found[size]))}", flush=True)
            before = size
    return found


def measure(hub: Subject, size: int, fresh: range, seconds: float) -> Point:
    """Start the hub and measure it.

    Args:
        hub: It does not run yet.
        size: Of the fleet.
        fresh: Devices that the director has never signed for.
        seconds: Of polling.
    """
    starts = [hub.fleet.hub.start()]
    for _ in range(STARTS - 1):
        hub.fleet.hub.stop()
        starts.append(hub.fleet.hub.start())
    poll_us, memory_mib = polling(hub, size, seconds)
    return Point(
        poll_us=poll_us,
        memory_mib=memory_mib,
        start_up_s=round(statistics.median(starts), 2),
        signing_us=signing(hub, fresh),
        page_ms=asking(hub, "GET", f"/api/v1/devices?limit=100&cursor={encode_cursor(size // 2)}"),
        tag_preview_ms=asking(hub, "POST", "/api/v1/devices/preview", {"query": QUERIES["tag"]}),
        version_preview_ms=asking(hub, "POST", "/api/v1/devices/preview", {"query": QUERIES["version"]}),
    )


def polling(hub: Subject, size: int, seconds: float) -> tuple[float, float]:
    with watching([hub.fleet.hub.pid]) as watch:
        polls = Polls(size, hub.assigned)
        tally = load.run(hub.fleet.hub.port, polls, is_unchanged, connections=CONNECTIONS, seconds=seconds)
    if tally.wrong:
        raise RuntimeError(f"{tally.wrong} polls were answered otherwise, first: {tally.first_wrong}")
    return round(watch.cpu_s[0] / tally.correct * 1e6, 1), round(watch.pss_mib, 1)


def signing(hub: Subject, fresh: range) -> float:
    devices = [fleet_of_rows.device(index) for index in fresh]
    hub.fleet.publisher.assign("bench@1.0.0", *(device.id for device in devices))
    hub.assigned.update(fresh)
    asked = [
        load.request(f"/tuf/director/{device.id}/metadata/timestamp.json", f"authorization: Bearer {device.token}")
        for device in devices
    ]
    with watching([hub.fleet.hub.pid], *hub.database) as watch:
        tally = load.run(hub.fleet.hub.port, asked, is_signed, connections=min(CONNECTIONS, len(asked)))
    if tally.wrong:
        raise RuntimeError(f"{tally.wrong} devices were not answered, first: {tally.first_wrong}")
    return round(sum(watch.cpu_s) / tally.correct * 1e6)


def is_signed(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200") and b'"signatures"' in answer


def asking(hub: Subject, method: str, path: str, body: Mapping[str, str] | None = None) -> float:
    """The median time of an answer, in ms; a query that is cut off at its deadline took that long."""
    took = []
    with hub.fleet.client() as client:
        for _ in range(ASKS):
            began = time.perf_counter()
            answer = client.request(method, path, json=body)
            if answer.status_code != codes.SERVICE_UNAVAILABLE:
                answer.raise_for_status()
            took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1000, 1)


def table(backend: str, found: Mapping[int, Point]) -> str:
    lines = [
        f"| {backend} | {' | '.join(f'{size:,}' for size in found)} |",
        f"|---|{'---|' * len(found)}",
        *(
            f"| {shown} | {' | '.join(f'{getattr(point, name):,g}' for point in found.values())} |"
            for name, shown in ROWS.items()
        ),
    ]
    return "\n".join(lines)


def draw(file: Path, backend: str, found: Mapping[int, Point]) -> None:
    first, last = min(found), max(found)
    series: dict[str, list[tuple[float, float]]] = {
        shown.rpartition(", ")[0]: [
            (size, getattr(point, name) / getattr(found[first], name)) for size, point in found.items()
        ]
        for name, shown in ROWS.items()
    }
    series["in proportion to the fleet"] = [(first, 1), (last, last / first)]
    chart.write(file, f"How cost grows ({backend})", ("devices", f"times the cost at {first:,}"), series)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="growing")
    parser.add_argument("--seconds", type=float, default=5.0, help="of polling, at each size")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of performance.md")
    chosen = parser.parse_args()
    found = {}
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory(prefix="sdx-bench-") as folder:
            found[backend] = grow(backend, Path(folder), chosen.sizes, chosen.seconds)
    tables = "\n\n".join(table(backend, points) for backend, points in found.items())
    page = chosen.docs / "performance.md"
    page.write_text(_MARKED.sub(lambda marks: f"{marks[1]}{tables}\n{marks[2]}", page.read_text("utf-8")), "utf-8")
    draw(chosen.docs / "growth.svg", BACKENDS[0], found[BACKENDS[0]])
    print(tables)
    print(
        json.dumps(
            {name: {size: structs.asdict(point) for size, point in points.items()} for name, points in found.items()}
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

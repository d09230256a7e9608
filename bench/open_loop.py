"""Polls that come when they are due, whether or not earlier ones were answered: craft know nothing of each other.

A latency is counted from the moment at which the poll was due, so a server that stalls pays for every poll that it
kept waiting, and not only for those that it held ("coordinated omission"). A poll takes the connection that has been
free for the longest time; no connection has two under way. The clients are processes of their own, each with a share
of the devices; they look once a millisecond what is due, so up to a millisecond of a latency is theirs.
"""

import gc
import math
import multiprocessing
import resource
import select
import socket
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from msgspec import Struct, field

from bench.fleet_of_rows import GROUPS, TOKEN_FORMAT
from bench.load import connect, is_whole, poll_request

START_AFTER_S = 0.2
_TICK_S = 0.001
_READ_BYTES = 1 << 16
_STRIDE = 611_953
"""A prime: stepping by it visits every device, but not in the order in which they enrolled."""


class Share(Struct, frozen=True):
    """What one client does.

    Attributes:
        ports: Of the replicas; connections are spread over them evenly.
        first, count: Its devices, by index.
        connections: It keeps so many, on all replicas together.
        rate: Polls a second that come due.
    """

    ports: Sequence[int]
    first: int
    count: int
    connections: int
    rate: float


class Outcome(Struct):
    """What came of a run. Times are of the monotonic clock, which all processes of a machine share.

    Attributes:
        began, ended: When the first poll was due, and when the last answer came.
        rate: As asked for.
        latencies: Seconds, in the order in which the polls came due; not a number where the answer was another than
            200 or 304.
        statuses: How many answers of each kind.
        first_wrong: The beginning of the first other answer.
        updated, updated_at: How many devices heard of a new desired state, and when the last of them did.
        outdated_at: By replica: when it last told a device of group 0 that nothing is new though it had heard nothing.
        reconnects: Connections that a server closed.
        cpu_s: Of the client.
    """

    began: float
    rate: float
    latencies: "array[float]"
    outdated_at: list[float]
    ended: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    first_wrong: str = ""
    updated: int = 0
    updated_at: float = 0.0
    reconnects: int = 0
    cpu_s: float = 0.0


class Clients:
    """Several client processes that start together; see `clients`."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def start(self, seconds: float) -> float:
        """Let polls come due for so long, or until `stop` where that is infinite; return when the first is due."""
        began = time.monotonic() + START_AFTER_S
        for pipe in self._pipes:
            pipe.send((began, seconds))
        return began

    def stop(self) -> None:
        """Let no more polls come due."""
        for pipe in self._pipes:
            pipe.send(None)

    def outcomes(self) -> list[Outcome]:
        """Wait until every poll was answered."""
        found = []
        for pipe in self._pipes:
            outcome = pipe.recv()
            assert isinstance(outcome, Outcome)
            found.append(outcome)
        return found


@contextmanager
def clients(shares: Sequence[Share]) -> Iterator[Clients]:
    """Client processes, connected already."""
    context = multiprocessing.get_context("spawn")
    pairs = [context.Pipe() for _ in shares]
    processes = [
        context.Process(target=_serve, args=(theirs, share), daemon=True)
        for (_, theirs), share in zip(pairs, shares, strict=True)
    ]
    try:
        for process in processes:
            process.start()
        for ours, theirs in pairs:
            theirs.close()
            ours.recv()
        yield Clients([ours for ours, _ in pairs])
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()


def between(outcomes: Sequence[Outcome], start: float, end: float) -> list[float]:
    """Ordered latencies, in seconds, of the polls that came due in this time."""
    found: list[float] = []
    for one in outcomes:
        first, last = (max(0, math.ceil((at - one.began) * one.rate)) for at in (start, end))
        found += [latency for latency in one.latencies[first:last] if not math.isnan(latency)]
    return sorted(found)


def _serve(pipe: Connection, share: Share) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    client = _Client(share)
    gc.collect()
    gc.disable()  # Nothing here makes cycles, and a collection would look like a slow server.
    pipe.send("connected")
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        if order is not None:
            began, seconds = order
            pipe.send(client.run(began, seconds, pipe.poll))


@dataclass(slots=True, eq=False)
class _Line:
    """One connection, and the poll that is under way on it."""

    replica: int
    socket: socket.socket
    number: int = 0
    device: int = 0
    request: bytes = b""
    held: bytes = b""


class _Client:
    def __init__(self, share: Share) -> None:
        self.share = share
        self.known = array("I", bytes(4 * share.count))
        self.next = 0
        self.epoll = select.epoll()
        self.lines: dict[int, _Line] = {}
        for number in range(share.connections):
            replica = number % len(share.ports)
            self.register(_Line(replica, connect(share.ports[replica])))
        self.free = deque(self.lines.values())

    def register(self, line: _Line) -> None:
        self.lines[line.socket.fileno()] = line
        self.epoll.register(line.socket.fileno(), select.EPOLLIN)

    def run(self, began: float, seconds: float, stopped: Callable[[], bool]) -> Outcome:
        share, free, polls = self.share, self.free, seconds * self.share.rate
        out = Outcome(began, share.rate, array("f"), [0.0] * len(share.ports))
        spent_s = time.process_time()
        sent = due = 0
        ended = False
        while not ended or sent < due or len(free) < share.connections:
            if not ended:
                due = max(0, int(min(polls, (time.monotonic() - began) * share.rate + 1)))
                ended = due >= polls or stopped()
            while sent < due and free:
                self.ask(free.popleft(), sent, out)
                sent += 1
            for descriptor, _ in self.epoll.poll(_TICK_S):
                self.hear(self.lines[descriptor], out)
        out.ended = time.monotonic()
        out.cpu_s = time.process_time() - spent_s
        return out

    def ask(self, line: _Line, number: int, out: Outcome) -> None:
        line.number, line.device = number, self.next
        self.next = (self.next + _STRIDE) % self.share.count
        out.latencies.append(math.nan)
        line.request = poll_request(TOKEN_FORMAT % (self.share.first + line.device), self.known[line.device])
        line.socket.sendall(line.request)

    def hear(self, line: _Line, out: Outcome) -> None:
        data = line.socket.recv(_READ_BYTES)
        if not data:
            # A server may close a kept connection whenever it likes; the poll goes out again, as old as it is.
            del self.lines[line.socket.fileno()]
            line.socket.close()
            line.socket = connect(self.share.ports[line.replica])
            self.register(line)
            line.socket.sendall(line.request)
            out.reconnects += 1
            return
        line.held += data
        if not is_whole(line.held):
            return
        answer, line.held = line.held, b""
        self.free.append(line)
        now = time.monotonic()
        if answer.startswith(b"HTTP/1.1 304"):
            out.statuses["304"] += 1
            if not self.known[line.device] and (self.share.first + line.device) % GROUPS == 0:
                out.outdated_at[line.replica] = now
        elif answer.startswith(b"HTTP/1.1 200"):
            out.statuses["200"] += 1
            self.known[line.device] = _version(answer)
            out.updated += 1
            out.updated_at = now
        else:
            out.statuses[answer[9:12].decode("latin-1")] += 1
            out.first_wrong = out.first_wrong or answer[:300].decode("latin-1")
            return
        out.latencies[line.number] = now - (out.began + line.number / out.rate)


def _version(answer: bytes) -> int:
    head = answer.lower()
    start = head.index(b'\r\netag: "') + len(b'\r\netag: "')
    return int(head[start : head.index(b'"', start)])

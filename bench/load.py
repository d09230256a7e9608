"""A closed loop of HTTP requests over many kept connections: one process, one epoll, no HTTP library.

The requests are built beforehand and the answers are only compared, so that the client costs less than the servers it
measures. It counts an answer only if it is the one that was expected, byte by byte where that matters.
"""

import math
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_READ_BYTES = 1 << 16
_AGENT = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept-Encoding: identity\r\nuser-agent: sdx-agent/bench\r\n"
_POLL = _AGENT % b"/device/v1/poll" + b'authorization: Bearer %b\r\nif-none-match: "%d"\r\n\r\n'


@dataclass
class Tally:
    """What came of a round; latencies in seconds, of correct answers only."""

    correct: int = 0
    wrong: int = 0
    first_wrong: str = ""
    reconnects: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000 if ordered else 0.0


def connect(port: int) -> socket.socket:
    """A connection on loopback that sends at once."""
    line = socket.create_connection(("127.0.0.1", port), timeout=30)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def request(path: str, *headers: str) -> bytes:
    """A GET with the headers that the agent always sends, and these."""
    return _AGENT % path.encode() + "".join(f"{header}\r\n" for header in headers).encode() + b"\r\n"


def poll_request(token: bytes, known: int) -> bytes:
    """A poll as the agent sends it, of a device that has heard of this version of its desired state."""
    return _POLL % (token, known)


class _Line:
    """One connection, and the requests that take turns on it."""

    __slots__ = ("held", "left", "next", "requests", "sent_at", "socket", "step")

    def __init__(self, port: int, requests: Sequence[bytes], first: int, step: int, *, once: bool) -> None:
        self.requests, self.next, self.step = requests, first, step
        self.left = len(range(first, len(requests), step)) if once else math.inf
        self.connect(port)

    def connect(self, port: int) -> None:
        self.socket = connect(port)
        self.held = b""

    def ask(self) -> None:
        self.sent_at = time.perf_counter()
        self.socket.sendall(self.requests[self.next])
        self.next = (self.next + self.step) % len(self.requests)
        self.left -= 1


def run(
    port: int,
    requests: Sequence[bytes],
    expected: Callable[[bytes], bool],
    *,
    connections: int,
    seconds: float | None = None,
) -> Tally:
    """Ask for so long, with one request under way on each connection.

    Args:
        port: On loopback.
        requests: One for each device; they are dealt out to the connections, and every connection repeats its share.
            They may be made when they are asked for.
        expected: Whether a whole answer (status line, headers, body) is the right one.
        connections: Kept; no more than there are requests.
        seconds: None asks every request once.
    """
    tally = Tally()
    lines: dict[int, _Line] = {}
    poll = select.epoll()
    for index in range(connections):
        line = _Line(port, requests, index, connections, once=seconds is None)
        lines[line.socket.fileno()] = line
        poll.register(line.socket.fileno(), select.EPOLLIN)
    started = time.perf_counter()
    end = started + (math.inf if seconds is None else seconds)
    for line in lines.values():
        line.ask()
    waiting = len(lines)
    while waiting:
        for descriptor, _events in poll.poll(30):
            line = lines[descriptor]
            data = line.socket.recv(_READ_BYTES)
            if not data:
                # A server may close a kept connection whenever it likes; the request counts when it is asked again.
                poll.unregister(descriptor)
                del lines[descriptor]
                line.socket.close()
                line.connect(port)
                lines[line.socket.fileno()] = line
                poll.register(line.socket.fileno(), select.EPOLLIN)
                tally.reconnects += 1
                line.ask()
                continue
            line.held += data
            if not is_whole(line.held):
                continue
            answer, line.held = line.held, b""
            now = time.perf_counter()
            if expected(answer):
                tally.correct += 1
                tally.latencies.append(now - line.sent_at)
            else:
                tally.wrong += 1
                tally.first_wrong = tally.first_wrong or answer[:300].decode("latin-1")
            if now < end and line.left:
                line.ask()
            else:
                waiting -= 1
    tally.seconds = time.perf_counter() - started
    for line in lines.values():
        line.socket.close()
    poll.close()
    return tally


def is_whole(answer: bytes) -> bool:
    """Whether the bytes are a complete answer: the head, and as many bytes as it announces."""
    head_end = answer.find(b"\r\n\r\n")
    if head_end < 0:
        return False
    if answer.startswith((b"HTTP/1.1 304", b"HTTP/1.1 204")):
        return True
    head = answer[:head_end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        # No length: chunked, which ends with an empty chunk.
        return answer.endswith(b"0\r\n\r\n")
    length = int(head[at + 17 : (head.find(b"\r\n", at + 2) + 1 or head_end + 1) - 1])
    return len(answer) >= head_end + 4 + length

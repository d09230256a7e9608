"""The open loop counts what a closed one hides, and keeps account of who has heard of what."""

import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.fleet_of_rows import GROUPS, TOKEN_FORMAT
from bench.open_loop import Outcome, Share, between, clients


class Polled:
    """Answers polls as a hub does, except for what the test wants."""

    def __init__(self) -> None:
        self.version: Callable[[int], int] = lambda index: 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked: list[int] = []

    def answer(self, request: bytes) -> bytes:
        self.may_answer.wait(20)
        token = request.partition(b"authorization: Bearer ")[2].partition(b"\r\n")[0]
        index = int(token.removeprefix(b"sdxd_"))
        assert token == TOKEN_FORMAT % index
        self.asked.append(index)
        known = request.partition(b'if-none-match: "')[2].partition(b'"')[0]
        version = b"%d" % self.version(index)
        if known == version:
            return b'HTTP/1.1 304 Not Modified\r\netag: "%b"\r\n\r\n' % version
        return b'HTTP/1.1 200 OK\r\nETag: "%b"\r\ncontent-length: 2\r\n\r\n{}' % version


@contextmanager
def serving(polled: Polled) -> Iterator[int]:
    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while True:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    line = self.rfile.readline()
                    if not line:
                        return
                    request += line
                self.wfile.write(polled.answer(request))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def run(share: Share, seconds: float, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
    with clients([share]) as polls:
        polls.start(seconds)
        meanwhile()
        return polls.outcomes()[0]


def test_every_poll_that_a_stalled_server_kept_waiting_counts() -> None:
    polled = Polled()
    polled.may_answer.clear()

    def stall() -> None:
        time.sleep(1.2)
        polled.may_answer.set()

    with serving(polled) as port:
        out = run(Share([port], 0, 100, connections=2, rate=100), 1.0, stall)
    # All hundred came due while the server stood still, though only two connections could show it.
    assert len(out.latencies) == 100
    assert out.statuses == {"304": 100}
    waited = between([out], out.began, out.began + 0.5)
    assert len(waited) == 50
    assert waited[0] > 0.4


def test_every_device_polls_once_in_a_sweep() -> None:
    polled = Polled()
    with serving(polled) as port:
        run(Share([port], 50, 30, connections=4, rate=300), 0.1)
    assert sorted(polled.asked) == list(range(50, 80))


def test_it_notes_who_heard_of_a_new_state_and_when_an_old_answer_came_last() -> None:
    polled = Polled()
    changed = threading.Event()
    polled.version = lambda index: int(changed.is_set() and index % GROUPS == 0)
    at = [0.0]

    def change() -> None:
        time.sleep(0.5)
        changed.set()
        at[0] = time.monotonic()

    with serving(polled) as port:
        out = run(Share([port], 0, 100, connections=4, rate=200), 1.5, change)
    assert out.updated == 10
    assert out.statuses == {"200": 10, "304": 290}
    assert 0 < out.outdated_at[0] < out.updated_at
    assert out.began < at[0] < out.updated_at

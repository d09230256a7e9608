"""A man in the middle: a real HTTP proxy between the agent and the hub that can lie about any path.

Attacks are staged here, because this is where they happen: the hub stays honest, the agent stays unchanged.
"""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

Answer = tuple[int, dict[str, str], bytes | Iterator[bytes]]
Rule = Callable[["Request"], Answer | None]
"""Takes a request; returns the lie, or None to let it through."""


class Request:
    """One request of the agent, and a way to see the honest answer."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes, upstream: str) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self._upstream = upstream

    def forward(self, path: str = "") -> tuple[int, dict[str, str], bytes]:
        host = urlsplit(self._upstream)
        connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=60)
        kept = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "connection", "content-length"}}
        connection.request(self.method, path or self.path, body=self.body or None, headers=kept)
        answer = connection.getresponse()
        body = answer.read()
        headers = {k.lower(): v for k, v in answer.getheaders()}
        connection.close()
        return answer.status, headers, body


class Mitm:
    """`with Mitm(hub_url) as mitm:` the agent talks to `mitm.url`; `mitm.lie(rule)` adds a rule, newest first."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[tuple[str, bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length) if length else b""
                request = Request(self.command, self.path, dict(self.headers.items()), body, outer.upstream)
                outer.seen.append((self.command, self.path))
                outer.bodies.append((self.path, body))
                for rule in list(outer.rules):
                    answer = rule(request)
                    if answer is not None:
                        break
                else:
                    answer = request.forward()
                self._reply(*answer)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _serve

            def _reply(self, status: int, headers: dict[str, str], body: bytes | Iterator[bytes]) -> None:
                self.send_response(status)
                dropped = {"content-length", "connection", "transfer-encoding", "date", "server"}
                for name, value in headers.items():
                    if name.lower() not in dropped:
                        self.send_header(name, value)
                try:
                    if isinstance(body, bytes):
                        if status not in {204, 304}:
                            self.send_header("content-length", headers.get("x-claim-length", str(len(body))))
                        self.end_headers()
                        if self.command != "HEAD":
                            self.wfile.write(body)
                        return
                    if "x-claim-length" in headers:
                        self.send_header("content-length", headers["x-claim-length"])
                    self.send_header("connection", "close")
                    self.close_connection = True
                    self.end_headers()
                    for chunk in body:
                        self.wfile.write(chunk)
                        self.wfile.flush()
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def lie(self, rule: Rule) -> None:
        self.rules.insert(0, rule)

    def replace(self, ending: str, body: bytes | Callable[[bytes], bytes]) -> None:
        """Lie about every GET whose path ends with `ending`: other bytes, or the honest ones passed through `body`."""

        def rule(request: Request) -> Answer | None:
            if not request.path.split("?")[0].endswith(ending):
                return None
            if isinstance(body, bytes):
                return 200, {"content-type": "application/json"}, body
            status, headers, honest = request.forward()
            return status, headers, body(honest) if status == 200 else honest

        self.lie(rule)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def endless(chunk: bytes = b"\0" * 65536, limit_s: float = 60.0) -> Iterator[bytes]:
    """Bytes without an end (well: until the test would hang)."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        yield chunk


def dripping(body: bytes, seconds_each: float = 0.5) -> Iterator[bytes]:
    """One byte at a time, slowly."""
    for index in range(len(body)):
        yield body[index : index + 1]
        time.sleep(seconds_each)

"""A replica that does as it is told, and remembers what it was asked: what stands behind the proxy in its tests."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

EVERYWHERE, NOWHERE = "/", "nowhere"


class Asked(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Upstream:
    """An HTTP server on loopback.

    Attributes:
        asked: Every request, with its body.
        status: What is answered.
        hangs_up: Read a whole request below this path and close the connection, as a replica does that is killed.
        streams: Answer below this path with a line, and with one more each time that `goes_on` is released.
        connections: So many were opened.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[Asked] = []
        self.status = 200
        self.hangs_up = NOWHERE
        self.streams = NOWHERE
        self.goes_on = threading.Semaphore(0)
        self.connections = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def forget(self) -> None:
        self.asked.clear()
        self.status, self.hangs_up, self.streams, self.connections = 200, NOWHERE, NOWHERE, 0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                upstream.connections += 1
                super().setup()

            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                headers = {name.lower(): value for name, value in self.headers.items()}
                upstream.asked.append(Asked(self.command, self.path, headers, body))
                if self.path.startswith(upstream.hangs_up):
                    self.close_connection = True
                    return
                if self.path.startswith(upstream.streams):
                    self.stream()
                    return
                content = upstream.name.encode()
                self.send_response(upstream.status)
                self.send_header("content-length", str(len(content)))
                if upstream.status == 503:
                    self.send_header("retry-after", "7")
                self.end_headers()
                self.wfile.write(content)

            def stream(self) -> None:
                self.close_connection = True
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                with suppress(OSError):
                    for number in range(3):
                        self.wfile.write(b"id: %d\n\n" % number)
                        self.wfile.flush()
                        upstream.goes_on.acquire(timeout=30)

            do_GET = do_POST = do_PATCH = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                return

        return Handler

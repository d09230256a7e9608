"""A real receiver of webhooks on loopback, and the check of a signature as the specification describes it.

Written from https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md alone, and not
from the hub's own code: each is the other's test.
"""

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import msgspec

TOLERANCE_S = 300


class Got(NamedTuple):
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        return msgspec.json.decode(self.body)


class Receiver:
    """An HTTP server that notes what it gets.

    Attributes:
        got: Every request.
        answers: Statuses, or statuses with headers, for the next requests; then `status`.
        status: The usual answer.
        body: What is answered.
        wait: Answers wait for it.
    """

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.answers: list[int | tuple[int, dict[str, str]]] = []
        self.status = 200
        self.body = b"thanks"
        self.wait = threading.Event()
        self.wait.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks"

    def close(self) -> None:
        self.wait.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def until(self, count: int, within_s: float = 60) -> list[Got]:
        """Wait until there were so many requests."""
        end = time.monotonic() + within_s
        while len(self.got) < count:
            assert time.monotonic() < end, self.got
            time.sleep(0.02)
        return list(self.got)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.got.append(Got(self.path, headers, body))
                receiver.wait.wait()
                answer = receiver.answers.pop(0) if receiver.answers else receiver.status
                status, more = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(receiver.body)))
                self.end_headers()
                self.wfile.write(receiver.body)

            def log_message(self, *_: Any) -> None:
                return

        return Handler


def verify(secret: str, headers: Mapping[str, str], body: bytes, now_s: float | None = None) -> None:
    """Return if a message is genuine and new, as a receiver would find out.

    Args:
        secret: As it was shown: `whsec_...`.
        headers: Of the request, with lower-case names.
        body: Its exact bytes.
        now_s: The receiver's time; the system's where None.
    """
    assert secret.startswith("whsec_")
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    assert 24 <= len(key) <= 64
    identity, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    assert "." not in identity
    assert "." not in timestamp
    assert abs((time.time() if now_s is None else now_s) - int(timestamp)) <= TOLERANCE_S
    signed = f"{identity}.{timestamp}.".encode() + body
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    given = [each.partition(",") for each in headers["webhook-signature"].split(" ")]
    assert any(version == "v1" and hmac.compare_digest(value, expected) for version, _, value in given)

"""HTTP to the hub over one kept connection, with a bound on everything that the other side decides.

Bounds: bytes of an answer, the total time of an exchange whatever drips in (headers as well), the time without any
byte, and for a payload its rate. http.client has none of these but the last, so the socket is wrapped: every read
waits no longer than what is left.
"""

import http.client
import io
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

from device_agent import AGENT_VERSION
from device_agent.core.backoff import parse_retry_after
from device_agent.core.errors import TransportError
from device_agent.ports.clock import Clock

if TYPE_CHECKING:  # A craft on a plain link within its own station pays no memory for TLS.
    import ssl

    from device_agent.ports.tls import ResumingTls

READ_BYTES = 64 * 1024
_MAX_ERROR_BYTES = 16 * 1024


class TooSlow(TransportError):
    default_code = "answer_too_slow"


class TooLarge(TransportError):
    default_code = "answer_too_large"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream(NamedTuple):
    """An answer whose body is read piece by piece; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]

    @property
    def length(self) -> int | None:
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


class Link(Protocol):
    """How the agent asks its hub; `Hub` is the real one, and says what the arguments mean."""

    def exchange(
        self,
        method: str,
        path: str,
        *,
        longest_bytes: int,
        deadline_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer: ...

    def stream(
        self,
        method: str,
        path: str,
        *,
        deadline_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AbstractContextManager[Stream]: ...

    def close(self) -> None: ...


class Hub:
    """The hub as one device talks to it.

    Args:
        url: As in agent.toml; a path in it is kept.
        token: Gives the bearer token of the moment; empty sends none.
        clock: For deadlines.
        silence_s: Longest time without a byte.
        charge: Told of every byte of a body that arrives; it may raise.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        clock: Clock,
        *,
        silence_s: float,
        charge: Callable[[int], None] = lambda _count: None,
    ) -> None:
        parts = urlsplit(url)
        self._secure, self._host = parts.scheme == "https", parts.netloc.rpartition("@")[2]
        self._base = parts.path.rstrip("/")
        self._token, self._clock, self._silence_s, self._charge = token, clock, silence_s, charge
        self._connection: http.client.HTTPConnection | None = None
        self._tls: ResumingTls | None = None
        self._limit = _Limit(clock, silence_s)

    def exchange(
        self,
        method: str,
        path: str,
        *,
        longest_bytes: int,
        deadline_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """A request whose answer fits in memory.

        Raises:
            TooLarge, TooSlow: The answer breaks a bound.
            TransportError: The hub cannot be reached, or the link broke.
        """
        with self.stream(method, path, deadline_s=deadline_s, headers=headers, body=body) as stream:
            bound = longest_bytes if stream.status < 400 else max(longest_bytes, _MAX_ERROR_BYTES)
            if (stream.length or 0) > bound:
                raise TooLarge(f"The answer to {path} claims {stream.length} bytes; {bound} are allowed.")
            received = bytearray()
            for piece in stream.pieces:
                received += piece
                if len(received) > bound:
                    raise TooLarge(f"The answer to {path} has more than the {bound} bytes that are allowed.")
            return Answer(stream.status, stream.headers, bytes(received))

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        deadline_s: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Iterator[Stream]:
        """A request whose answer is read in pieces; what is not read to its end closes the connection.

        Raises:
            TooSlow: The deadline has passed.
            TransportError: The hub cannot be reached, or the link broke.
        """
        self._limit.start(deadline_s)
        with self._translated(path, deadline_s):
            response = self._send(method, path, dict(headers or {}), body)
        try:
            named = {name.lower(): value for name, value in response.getheaders()}
            yield Stream(response.status, named, self._pieces(response, path, deadline_s))
        finally:
            whole = response.isclosed() or response.length == 0
            response.close()
            if not whole:
                self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> http.client.HTTPResponse:
        headers["user-agent"] = f"sdx-agent/{AGENT_VERSION}"
        if token := self._token():
            headers["authorization"] = f"Bearer {token}"
        if body is not None:
            headers.setdefault("content-type", "application/json")
        kept = self._connection is not None
        try:
            return self._try(method, path, headers, body)
        except (http.client.RemoteDisconnected, ConnectionError):
            # A kept connection that the hub has closed meanwhile; every request here may be repeated.
            self.close()
            if not kept:
                raise
            return self._try(method, path, headers, body)

    def _try(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> http.client.HTTPResponse:
        # http.client would connect again by itself, without the wrapped socket.
        if self._connection is None or self._connection.sock is None:
            self._connection = self._connect()
        self._connection.request(method, self._base + path, body=body, headers=headers)
        response = self._connection.getresponse()
        if self._tls is not None and isinstance(self._connection.sock, _TimedSocket):
            self._connection.sock.remember(self._tls)
        return response

    def _connect(self) -> http.client.HTTPConnection:
        timeout_s = self._limit.left_s()
        if self._secure and self._tls is None:
            from device_agent.ports.tls import ResumingTls

            self._tls = ResumingTls()
        connection: http.client.HTTPConnection = (
            self._tls.connection(self._host, timeout_s)
            if self._tls
            else http.client.HTTPConnection(self._host, timeout=timeout_s)
        )
        connection.connect()
        connection.sock = _TimedSocket(connection.sock, self._limit)
        return connection

    def _pieces(self, response: http.client.HTTPResponse, path: str, deadline_s: float) -> Iterator[bytes]:
        while True:
            with self._translated(path, deadline_s):
                # read1 and not read: read would wait for a full piece, and a slow sender would never be noticed.
                piece = response.read1(READ_BYTES)
                if not piece and response.length:
                    raise http.client.IncompleteRead(b"", response.length)
            if not piece:
                return
            self._charge(len(piece))
            yield piece

    @contextmanager
    def _translated(self, path: str, deadline_s: float) -> Iterator[None]:
        """Around the link alone: an OSError of a disk is none of the hub's."""
        try:
            yield
        except _DeadlinePassed as error:
            self.close()
            raise TooSlow(f"The answer to {path} did not arrive within {deadline_s:g} s.") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise TransportError(f"The hub cannot be reached, or the link broke ({reason[:200]}).") from error


def failure(answer: Answer | Stream, what: str) -> TransportError:
    """The error for an answer that is no success, with the hub's own code where it gives one."""
    code, detail = "", ""
    try:
        problem: Any = json.loads(answer.body) if isinstance(answer, Answer) else {}
        if isinstance(problem, dict):
            code, detail = str(problem.get("code", ""))[:64], str(problem.get("detail", ""))[:500]
    except ValueError:
        pass
    return TransportError(
        f"The hub answered {answer.status} to {what}." + (f" {detail}" if detail else ""),
        code or f"http_{answer.status}",
        answer.status,
        parse_retry_after(answer.headers.get("retry-after")),
    )


class _DeadlinePassed(Exception):
    pass


class _Limit:
    """How long the next read may wait."""

    def __init__(self, clock: Clock, silence_s: float) -> None:
        self._clock, self._silence_s = clock, silence_s
        self._end_s = 0.0

    def start(self, deadline_s: float) -> None:
        self._end_s = self._clock.monotonic_s() + deadline_s

    def left_s(self) -> float:
        left_s = self._end_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise _DeadlinePassed
        return min(left_s, self._silence_s)

    def is_over(self) -> bool:
        return self._clock.monotonic_s() >= self._end_s


class _TimedReader(io.RawIOBase):
    """Reads of a socket, each with the time that is left."""

    def __init__(self, sock: socket.socket, limit: _Limit) -> None:
        super().__init__()
        self._sock, self._limit = sock, limit
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._limit.left_s())
        try:
            return self._raw.readinto(buffer)
        except TimeoutError as error:
            if self._limit.is_over():
                raise _DeadlinePassed from error
            raise

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _TimedSocket:
    """What http.client uses of a socket."""

    def __init__(self, sock: socket.socket, limit: _Limit) -> None:
        self._sock, self._limit = sock, limit

    def makefile(self, _mode: str, *_more: object) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._limit), READ_BYTES)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._limit.left_s())
        self._sock.sendall(data)

    def remember(self, tls: "ResumingTls") -> None:
        tls.remember(cast("ssl.SSLSocket", self._sock))

    def close(self) -> None:
        self._sock.close()

"""HTTP over real sockets, against peers that are slow, endless, or gone."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from device_agent.core.errors import TransportError
from device_agent.ports.clock import SystemClock
from device_agent.ports.hub import Hub, TooLarge, TooSlow, failure
from tests.support.tls import Certificate, make_certificate

Peer = Callable[[socket.socket], None]


@contextmanager
def peer(*answers: Peer) -> Iterator[str]:
    """A TCP server that treats each connection with the next of `answers`, the last one for all that follow."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopping = threading.Event()

    def serve() -> None:
        count = 0
        while not stopping.is_set():
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            answer = answers[min(count, len(answers) - 1)]
            count += 1
            threading.Thread(target=treat, args=(connection, answer), daemon=True).start()

    def treat(connection: socket.socket, answer: Peer) -> None:
        with connection:
            try:
                answer(connection)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stopping.set()
        listener.close()


def read_request(connection: socket.socket) -> bytes:
    raw = b""
    while b"\r\n\r\n" not in raw:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError
        raw += piece
    return raw


def says(body: bytes, status: str = "200 OK", *headers: str) -> Peer:
    """Answer every request on the connection so."""

    def answer(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers]
            connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


def link(url: str, silence_s: float = 5.0, token: str = "") -> Hub:
    return Hub(url, lambda: token, SystemClock(), silence_s=silence_s)


def get(url: str, longest_bytes: int = 1000, deadline_s: float = 5.0, silence_s: float = 5.0) -> bytes:
    hub = link(url, silence_s)
    try:
        return hub.exchange("GET", "/x", longest_bytes=longest_bytes, deadline_s=deadline_s).body
    finally:
        hub.close()


def test_an_answer_comes_back() -> None:
    with peer(says(b"hello")) as url:
        assert get(url) == b"hello"


def test_one_connection_is_kept_for_all_requests() -> None:
    seen: list[int] = []

    def count(connection: socket.socket) -> None:
        seen.append(1)
        says(b"x")(connection)

    with peer(count) as url:
        hub = link(url)
        for _ in range(5):
            hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5)
        hub.close()
    assert len(seen) == 1


def test_a_kept_connection_that_the_hub_closed_is_opened_again() -> None:
    def once(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na")

    with peer(once) as url:
        hub = link(url)
        assert hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5).body == b"a"
        time.sleep(0.1)
        assert hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5).body == b"a"
        hub.close()


def test_the_deadline_also_holds_on_a_connection_that_was_opened_again() -> None:
    """http.client would open it by itself, without our bounds."""

    def closing(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na")

    def silent(connection: socket.socket) -> None:
        read_request(connection)
        drip(connection, b"HTTP/1.1 200 OK\r\n" + b"x" * 100)

    with peer(closing, silent) as url:
        hub = link(url)
        hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5)
        with pytest.raises(TooSlow):
            hub.exchange("GET", "/x", longest_bytes=10, deadline_s=0.6)
        hub.close()


def drip(connection: socket.socket, data: bytes) -> None:
    for index in range(len(data)):
        connection.sendall(data[index : index + 1])
        time.sleep(0.1)


@pytest.mark.parametrize(
    "sent",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100, b"HTTP/1.1 200 OK\r\nslow: " + b"x" * 100],
    ids=["body", "headers"],
)
def test_a_drip_ends_at_the_deadline(sent: bytes) -> None:
    """Each byte comes in time, so that a timeout of the socket never strikes."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        drip(connection, sent)

    with peer(answer) as url:
        began_s = time.monotonic()
        with pytest.raises(TooSlow) as caught:
            get(url, deadline_s=1.0)
        assert time.monotonic() - began_s < 3
        assert caught.value.code == "answer_too_slow"


def test_silence_ends_before_the_deadline() -> None:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        time.sleep(20)

    with peer(answer) as url:
        began_s = time.monotonic()
        with pytest.raises(TransportError) as caught:
            get(url, deadline_s=60, silence_s=0.5)
        assert time.monotonic() - began_s < 5
        assert caught.value.code == "hub_unreachable"


@pytest.mark.parametrize("claimed", [True, False])
def test_more_bytes_than_allowed_are_not_read(claimed: bool) -> None:
    sent: list[int] = []

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        length = "content-length: 1000000000\r\n" if claimed else "connection: close\r\n"
        connection.sendall(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode())
        while True:
            sent.append(connection.send(b"x" * 65536))

    with peer(answer) as url, pytest.raises(TooLarge):
        get(url, longest_bytes=1000)
    assert sum(sent) < 50_000_000


def test_a_body_that_ends_too_soon_is_no_body() -> None:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")

    with peer(answer) as url, pytest.raises(TransportError):
        get(url)


@pytest.mark.parametrize("said", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_something_that_is_not_http(said: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(said)

    with peer(answer) as url, pytest.raises(TransportError):
        get(url)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransportError) as caught:
        get(f"http://127.0.0.1:{port}")
    assert caught.value.code == "hub_unreachable"


def test_the_token_of_the_moment_is_sent_and_a_path_is_kept() -> None:
    seen: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        while True:
            seen.append(read_request(connection))
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    tokens = iter(["one", "two"])
    with peer(answer) as url:
        hub = Hub(f"{url}/behind/a/proxy/", lambda: next(tokens), SystemClock(), silence_s=5)
        for _ in range(2):
            hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5)
        hub.close()
    assert [b"Bearer one" in seen[0], b"Bearer two" in seen[1]] == [True, True]
    assert all(request.startswith(b"GET /behind/a/proxy/x ") for request in seen)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def server_tls(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.cert, certificate.key)
    return context


def test_a_certificate_of_nobody_is_not_accepted(certificate: Certificate) -> None:
    def answer(connection: socket.socket) -> None:
        with server_tls(certificate).wrap_socket(connection, server_side=True) as secure:
            read_request(secure)

    with peer(answer) as url, pytest.raises(TransportError, match="certificate"):
        get(url.replace("http:", "https:"))


@pytest.mark.parametrize(("forgets", "expected"), [(False, [False, True, True]), (True, [False, False, False])])
def test_the_next_connection_resumes_the_session_of_the_last(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch, forgets: bool, expected: list[bool]
) -> None:
    """A hub that does not know the session any more is greeted anew, and nobody notices."""
    kept, resumed = server_tls(certificate), []

    def one_answer(connection: socket.socket) -> None:
        # A context of its own has its own ticket key: as after a restart of the proxy.
        context = server_tls(certificate) if forgets else kept
        with context.wrap_socket(connection, server_side=True) as secure:
            resumed.append(secure.session_reused)
            read_request(secure)
            secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na")

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.ca))
    with peer(one_answer) as url:
        hub = link(url.replace("http:", "https:"))
        for _ in expected:
            assert hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5).body == b"a"
        hub.close()
    assert resumed == expected


def test_an_error_of_the_hub_keeps_its_code_and_its_wish() -> None:
    problem = b'{"code":"device_pending","detail":"Wait."}'
    with peer(says(problem, "403 Forbidden", "retry-after: 17")) as url:
        hub = link(url)
        error = failure(hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5), "the poll")
        hub.close()
    assert (error.code, error.status, error.retry_after_s) == ("device_pending", 403, 17.0)
    assert "Wait." in str(error)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"7", b"\xff", b'{"code":7}'])
def test_an_error_page_of_somebody_else(body: bytes) -> None:
    with peer(says(body, "502 Bad Gateway")) as url:
        hub = link(url)
        error = failure(hub.exchange("GET", "/x", longest_bytes=10, deadline_s=5), "the poll")
        hub.close()
    assert error.status == 502
    assert error.code in {"http_502", "7"}


def test_every_byte_of_a_body_is_charged() -> None:
    charged: list[int] = []
    with peer(says(b"x" * 5000)) as url:
        hub = Hub(url, lambda: "", SystemClock(), silence_s=5, charge=charged.append)
        hub.exchange("GET", "/x", longest_bytes=10_000, deadline_s=5)
        hub.close()
    assert sum(charged) == 5000


def test_an_error_of_the_reader_is_not_the_links() -> None:
    """A full disk while a payload arrives must not look like a broken link."""
    with peer(says(b"x" * 100)) as url:
        hub = link(url)
        with (
            pytest.raises(OSError, match="No space"),
            hub.stream("GET", "/x", deadline_s=5) as stream,
        ):
            for _piece in stream.pieces:
                raise OSError(28, "No space left on device")
        hub.close()

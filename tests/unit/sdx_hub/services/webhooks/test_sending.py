"""One attempt, against real servers: what is sent, what is not followed, and what an answer becomes."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from sdx_hub.demo.cluster.certificates import CA_FILE, make_certificates
from sdx_hub.domain.webhook_schedule import Answer
from sdx_hub.services.webhooks import sending
from sdx_hub.services.webhooks.sending import MAX_ANSWER_BYTES, Sender
from tests.support.receiver import Receiver

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HEADERS = {"webhook-id": "msg_1_2"}


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender("1.2.3", plain=False)
    yield sender
    await sender.close()


async def test_what_a_receiver_gets(sender: Sender, receiver: Receiver) -> None:
    answer = await sender.send(f"{receiver.url}?to=ops", HEADERS, b'{"a":1}', NOW)
    assert answer == Answer(200)
    got = receiver.got[0]
    assert (got.path, got.body) == ("/hooks?to=ops", b'{"a":1}')
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["user-agent"] == "sdx-hub/1.2.3"
    assert got.headers["webhook-id"] == "msg_1_2"
    assert "authorization" not in got.headers
    assert "cookie" not in got.headers


async def test_a_redirect_is_a_failure_and_not_followed(sender: Sender, receiver: Receiver) -> None:
    receiver.answers = [(307, {"location": receiver.url})]
    assert (await sender.send(receiver.url, HEADERS, b"{}", NOW)).status == 307
    assert len(receiver.got) == 1


async def test_an_environment_s_proxy_is_not_used(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    other = Sender("1", plain=False)
    assert (await other.send(receiver.url, HEADERS, b"{}", NOW)).status == 200
    await other.close()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        (format_datetime(NOW + timedelta(minutes=2), usegmt=True), 120),
        (format_datetime(NOW - timedelta(minutes=2), usegmt=True), 0),
        ("soon", 0),
        ("-5", 0),
        ("9" * 40, 0),
        ("Sun, 01 Mar 2026 12:01:00", 0),
    ],
)
async def test_when_to_come_again(sender: Sender, receiver: Receiver, text: str, seconds: int) -> None:
    receiver.answers = [(503, {"retry-after": text})]
    answer = await sender.send(receiver.url, HEADERS, b"{}", NOW)
    assert answer == Answer(503, seconds, "The receiver answered with 503.")


async def test_nobody_gets_to_see_what_a_receiver_says(sender: Sender, receiver: Receiver) -> None:
    receiver.status, receiver.body = 500, b"the password is hunter2"
    answer = await sender.send(receiver.url, HEADERS, b"{}", NOW)
    assert answer.error == "The receiver answered with 500."


async def test_an_answer_without_end_is_not_read_to_its_end(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sent: list[int] = []

    def pour() -> None:
        connection, _ = listener.accept()
        connection.settimeout(20)
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
            try:
                while True:
                    sent.append(connection.send(b"x" * 4096))
            except OSError:
                return

    thread = threading.Thread(target=pour, daemon=True)
    thread.start()
    answer = await sender.send(f"http://127.0.0.1:{listener.getsockname()[1]}/", HEADERS, b"{}", NOW)
    assert answer == Answer(200)
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()
    listener.close()
    assert MAX_ANSWER_BYTES == 1024


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "half of a head"])
async def test_a_receiver_that_hangs_is_not_waited_for(
    sender: Sender, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(sending, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sending_to = asyncio.create_task(
            sender.send(f"http://127.0.0.1:{listener.getsockname()[1]}/", HEADERS, b"{}", NOW)
        )
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            connection.sendall(says)
            answer = await sending_to
    assert (answer.status, answer.error) == (0, "There was no answer within 0.3 s.")


async def test_a_body_that_hangs_takes_nothing_from_the_status(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_BODY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sending_to = asyncio.create_task(
            sender.send(f"http://127.0.0.1:{listener.getsockname()[1]}/", HEADERS, b"{}", NOW)
        )
        connection, _ = await asyncio.to_thread(listener.accept)
        with connection:
            connection.sendall(b"HTTP/1.1 202 Accepted\r\ncontent-length: 10\r\n\r\nabc")
            assert await sending_to == Answer(202)


async def test_nobody_there(sender: Sender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = await sender.send(f"http://127.0.0.1:{port}/secret-path", HEADERS, b"{}", NOW)
    assert answer.status == 0
    assert answer.error.startswith("The connection failed: ")
    assert "secret-path" not in answer.error


@pytest.mark.parametrize("url", ["https://169.254.169.254/latest", "https://[fe80::1]/", "https://2852039166/latest"])
async def test_a_clouds_own_address_is_not_connected_to(sender: Sender, url: str) -> None:
    answer = await sender.send(url, HEADERS, b"{}", NOW)
    assert answer.status == 0
    assert answer.error.startswith("The hub does not send to ")


async def test_a_name_without_an_address_is_a_failure(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    answer = await sender.send("https://nobody.example/", HEADERS, b"{}", NOW)
    assert (answer.status, answer.error) == (0, "The connection failed: [Errno -2] Name or service not known")


class Tls:
    """A receiver with a certificate for `localhost`."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        self.asked: list[str | None] = []
        context.sni_callback = lambda _socket, name, _context: self.asked.append(name)
        receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
        self.port = receiver.port


async def test_a_certificate_is_checked_against_the_name_and_not_the_address(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificates(tmp_path)
    tls = Tls(tmp_path, receiver)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / CA_FILE))
    real = socket.getaddrinfo

    def here(host: str, *rest: object, **more: object) -> object:
        return real("127.0.0.1" if host.endswith(".example") else host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", here)
    sender = Sender("1", plain=False)
    try:
        answer = await sender.send(f"https://localhost:{tls.port}/hooks", HEADERS, b"{}", NOW)
        assert answer == Answer(200)
        assert receiver.got[0].headers["host"] == f"localhost:{tls.port}"
        assert tls.asked == ["localhost"]
        other = await sender.send(f"https://other.example:{tls.port}/hooks", HEADERS, b"{}", NOW)
        assert other.status == 0
        assert "certificate" in other.error.lower()
    finally:
        await sender.close()
    monkeypatch.delenv("SSL_CERT_FILE")
    stranger = Sender("1", plain=False)
    assert "certificate" in (await stranger.send(f"https://localhost:{tls.port}/", HEADERS, b"{}", NOW)).error.lower()
    await stranger.close()
    assert len(receiver.got) == 1

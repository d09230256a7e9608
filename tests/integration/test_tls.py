"""A hub that ends TLS itself: craft reach it, resume their sessions, and accept no certificate of anybody else."""

import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from device_agent.ports.clock import SystemClock
from device_agent.ports.hub import Hub
from tests.support.fleet import Fleet, start_fleet
from tests.support.hub import SDX
from tests.support.tls import Certificate, make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def secure(fleet: Fleet, certificate: Certificate) -> Iterator[str]:
    """The same hub, once more, behind its own TLS: the address."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
    environment |= {"SDX_TLS_CERT": str(certificate.cert), "SDX_TLS_KEY": str(certificate.key)}
    command = [SDX, "hub", "serve", "--data", str(fleet.hub.data), "--port", "0"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "The hub is ready: " in line)
        yield line.strip().rpartition(" ")[2]
    finally:
        process.terminate()
        process.communicate(timeout=40)


def test_a_poll_over_tls(fleet: Fleet, secure: str, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert secure.startswith("https://127.0.0.1:")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.ca))
    token = fleet.device_token
    hub = Hub(secure, lambda: token, SystemClock(), silence_s=10)
    answer = hub.exchange("GET", "/device/v1/poll", longest_bytes=4096, deadline_s=20)
    hub.close()
    assert answer.status == 200
    assert "desired_version" in json.loads(answer.body)


def test_the_hub_gives_sessions_that_resume(secure: str, certificate: Certificate) -> None:
    context = ssl.create_default_context(cafile=str(certificate.ca))
    host, _, port = secure.removeprefix("https://").rpartition(":")
    session, reused = None, []
    for _ in range(2):
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=host, session=session) as link,
        ):
            link.sendall(b"GET /livez HTTP/1.1\r\nhost: h\r\n\r\n")
            assert link.recv(4096).startswith(b"HTTP/1.1 200")
            session = link.session
            reused.append(link.session_reused)
    assert reused == [False, True]


def test_a_certificate_that_nobody_vouches_for_is_refused(secure: str) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{secure}/livez", timeout=20)


@pytest.mark.parametrize("broken", ["missing", "garbage", "other-key"])
def test_a_certificate_that_cannot_be_used_stops_the_start(
    fleet: Fleet, certificate: Certificate, tmp_path: Path, broken: str
) -> None:
    cert, key, _ = certificate
    if broken == "missing":
        key = tmp_path / "gone.key"
    elif broken == "garbage":
        cert = tmp_path / "garbage.crt"
        cert.write_text("no certificate")
    else:
        key = make_certificate(tmp_path / "other").key
    environment = os.environ | {"SDX_TLS_CERT": str(cert), "SDX_TLS_KEY": str(key)}
    command = [SDX, "hub", "serve", "--data", str(fleet.hub.data), "--port", "0", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended
    assert json.loads(ended.stdout)["error"]["code"] == "certificate_unusable"

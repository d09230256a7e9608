"""A hub whose PostgreSQL goes away: it says so to everybody, loses nothing that it acknowledged, and needs no hand."""

import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firmware_schemas import canonical
from firmware_schemas.device_api import ProgressReport, Report, envelope
from sdx_hub.demo.servers.postgres import PostgresServer
from tests.support.fleet import Fleet, start_fleet
from tests.support.postgres import IN_A_HURRY


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path_factory.mktemp("server"), IN_A_HURRY)
    server.start()
    yield server
    server.stop("immediate")


@pytest.fixture(scope="module")
def fleet(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub"), SDX_DATABASE_URL=server.url) as running:
        yield running


class Device:
    """A device that polls and reports by hand."""

    def __init__(self, fleet: Fleet, serial: str) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.token = fleet.enrol_key(self.key, serial)
        with fleet.client() as client:
            self.id = client.get(f"/api/v1/devices/{serial}").json()["id"]
        self.client = fleet.client(self.token)
        self.counter = 0

    def report(self, counter: int) -> httpx.Response:
        payload = canonical.encode(Report(self.id, counter, 0, ProgressReport(f"{self.id}.1", "READY")))
        sealed = envelope(payload, self.key.sign(payload))
        body = {"envelopes": [{"payload": sealed.payload, "signature": sealed.signature}]}
        return self.client.post("/device/v1/reports", json=body)


def ask_everything(client: httpx.Client, paths: list[tuple[str, str]]) -> dict[str, tuple[int, str]]:
    """Status and code of each answer."""
    answers = {}
    for method, path in paths:
        answer = client.request(method, path, json={"name": "x", "role": "viewer"} if method == "POST" else None)
        answers[f"{method} {path}"] = (answer.status_code, answer.json()["code"])
    return answers


def until_ready(fleet: Fleet) -> None:
    until = time.monotonic() + 60
    while not fleet.hub.ready():
        assert time.monotonic() < until, fleet.hub.text()[-2000:]
        time.sleep(0.05)


def test_it_says_so_and_comes_back_by_itself(fleet: Fleet, server: PostgresServer) -> None:
    device = Device(fleet, "witness")
    assert device.report(1).json()["receipts"][0]["status"] == "accepted"
    paths = [
        ("GET", "/api/v1/devices"),
        ("GET", "/api/v1/devices/witness"),
        ("GET", "/api/v1/releases"),
        ("GET", "/api/v1/audit"),
        ("GET", "/api/v1/tokens"),
        ("GET", "/api/v1/filters"),
        ("POST", "/api/v1/tokens"),
        ("GET", "/readyz"),
    ]
    with closing(device.client), fleet.client() as client:
        for stop in (server.stop, server.kill):
            stop()
            away = ask_everything(client, paths)
            assert away == dict.fromkeys(away, (503, "database_unavailable"))
            late = device.report(2)
            assert (late.status_code, late.json()["code"]) == (503, "database_unavailable")
            assert int(late.headers["retry-after"]) >= 1
            assert client.get("/livez").status_code == 200, "it lives: a restart would not help"
            server.start()
            until_ready(fleet)
        assert device.report(1).json()["receipts"][0]["status"] == "duplicate", "what was acknowledged is there"
        assert device.report(2).json()["receipts"][0]["status"] == "accepted"
        assert client.post("/api/v1/tokens", json={"name": "x", "role": "viewer"}).status_code == 201
        assert device.client.get("/device/v1/poll").status_code == 200
    assert fleet.publish_next()
    assert "Traceback" not in fleet.hub.text()


def test_a_restart_is_seen_by_nobody(fleet: Fleet, server: PostgresServer) -> None:
    """Kept connections that the server has closed are replaced before a request is given to them."""
    with fleet.client() as client:
        for _ in range(3):
            assert client.get("/api/v1/devices").status_code == 200
            server.restart()
            assert client.get("/api/v1/devices").status_code == 200
            assert client.post("/api/v1/tokens", json={"name": "y", "role": "viewer"}).status_code == 201


@pytest.mark.parametrize("escape", ["a\\u0000b", "\\ud800"])
def test_a_text_that_cannot_be_stored_is_refused(fleet: Fleet, escape: str) -> None:
    body = b'{"query": "serial = \'%s\'"}' % escape.encode()
    with fleet.client() as client:
        answer = client.put("/api/v1/filters/bad", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")

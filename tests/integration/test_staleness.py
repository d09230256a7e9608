"""Two hubs on one PostgreSQL: a device that one has revoked gets nothing from the other, paused or cut off though."""

import hashlib
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import FAST, Fleet, start_fleet
from tests.support.hub import HubProcess
from tests.support.postgres import Databases
from tests.support.trouble import Trouble

STALE_S = 2
INTERVAL_S = 30


class Pair:
    """Two replicas.

    Attributes:
        first: With the tools of a fleet.
        second: The one that is treated badly.
        trouble: Of their database.
    """

    def __init__(self, first: Fleet, second: HubProcess, trouble: Trouble) -> None:
        self.first, self.second, self.trouble = first, second, trouble

    def enrol(self, serial: str) -> str:
        """A new device's token, with which the second replica answers polls."""
        token = self.first.enrol_key(Ed25519PrivateKey.generate(), serial)
        assert self.poll(token).status_code == 200
        return token

    def revoke(self, serial: str) -> None:
        with self.first.client() as client:
            client.post(f"/api/v1/devices/{serial}/revoke").raise_for_status()

    def poll(self, token: str) -> httpx.Response:
        return httpx.get(f"{self.second.url}/device/v1/poll", headers={"authorization": f"Bearer {token}"}, timeout=20)

    def until_not_503(self, token: str) -> httpx.Response:
        end = time.monotonic() + 30
        while (answer := self.poll(token)).status_code == 503:
            assert time.monotonic() < end
            time.sleep(0.05)
        return answer

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The second replica as a whole."""
        os.killpg(self.second.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.second.pid, signal.SIGCONT)

    def poll_before_it_goes_on(self, token: str) -> socket.socket:
        """Send a poll that is there already when the second replica goes on; the kernel takes it in."""
        connection = socket.create_connection(("127.0.0.1", self.second.port), timeout=20)
        connection.sendall(
            f"GET /device/v1/poll HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {token}\r\n\r\n".encode()
        )
        return connection


def assert_stale(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "fleet_state_stale")
    assert INTERVAL_S <= int(answer.headers["retry-after"]) <= 2 * INTERVAL_S


@pytest.fixture(scope="module")
def pair(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    url = databases.new()
    settings = {
        "SDX_DATABASE_URL": url,
        "SDX_STALE_S": str(STALE_S),
        "SDX_POLL_INTERVAL_S": str(INTERVAL_S),
        "SDX_FLEET_REFRESH_MS": "5000",  # Whatever is quicker than this was told by a notice.
    }
    place = tmp_path_factory.mktemp("pair")
    with start_fleet(place / "first", **settings) as first:
        shared = {"SDX_KEYS_DIR": str(first.hub.data / "online"), "SDX_BLOB_URL": str(first.hub.data / "blobs")}
        (place / "second").mkdir()
        second = HubProcess(place / "second" / "hub", FAST | settings | shared)
        try:
            second.start()
            yield Pair(first, second, Trouble(databases, url))
        finally:
            second.close()
    databases.drop(url)


def test_the_other_replica_refuses_a_revoked_device(pair: Pair) -> None:
    token = pair.enrol("told")
    pair.revoke("told")
    end = time.monotonic() + 30
    while (answer := pair.poll(token)).status_code == 200:
        assert time.monotonic() < end
    assert answer.json()["code"] == "device_revoked"


def test_a_paused_replica_that_goes_on_answers_its_first_poll_by_what_is_true_now(pair: Pair) -> None:
    token = pair.enrol("paused")
    with pair.paused():
        pair.revoke("paused")
        time.sleep(STALE_S + 0.5)
        waiting = pair.poll_before_it_goes_on(token)
    with waiting:
        first = waiting.recv(65536)
    assert first.split()[1] in {b"403", b"503"}, first
    assert pair.until_not_503(token).json()["code"] == "device_revoked"


def test_a_paused_replica_that_cannot_ask_anybody_answers_nobody(pair: Pair) -> None:
    revoked, other = pair.enrol("gone"), pair.enrol("still-there")
    with ExitStack() as trouble:
        with pair.paused():
            pair.revoke("gone")
            time.sleep(STALE_S + 0.5)
            trouble.enter_context(pair.trouble.away())
            waiting = pair.poll_before_it_goes_on(revoked)
        with waiting:
            head, _, body = waiting.recv(65536).partition(b"\r\n\r\n")
        assert head.split()[1] == b"503", head
        assert b'"fleet_state_stale"' in body
        for token in (revoked, other):
            answer = pair.poll(token)
            assert_stale(answer)
            assert answer.headers["sdx-poll-interval"] == str(INTERVAL_S)
        url, bearer = pair.second.url, {"authorization": f"Bearer {revoked}"}
        assert_stale(httpx.get(f"{url}/tuf/director/any/metadata/timestamp.json", headers=bearer, timeout=20))
        assert_stale(httpx.post(f"{url}/device/v1/reports", json={"envelopes": []}, headers=bearer, timeout=20))
    assert pair.until_not_503(revoked).json()["code"] == "device_revoked"
    assert pair.until_not_503(other).status_code == 200


def test_a_short_absence_of_the_database_is_not_seen_by_known_devices(pair: Pair) -> None:
    token = pair.enrol("patient")
    with pair.trouble.away():
        assert pair.poll(token).status_code == 200
        unknown = pair.poll("sdxd_" + hashlib.sha256(secrets.token_bytes(8)).hexdigest())
        assert unknown.status_code == 503, "nobody can say that it is unknown"
    assert pair.until_not_503(token).status_code == 200

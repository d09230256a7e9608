"""What befalls a cluster, one test a fault: what users see, that nothing acknowledged is lost, that it mends itself.

Real processes: PostgreSQL, an S3 server, two hubs, nginx with TLS. A publisher, an operator and craft are at work all
the time, through the proxy. Each test ends when all of them get on again, with everything there that was acknowledged.
"""

import base64
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Targets

from sdx_hub.demo.cluster.cluster import Cluster
from sdx_hub.demo.cluster.replica import Replica
from sdx_hub.demo.cluster.topology import HUBS
from sdx_hub.trust import rotation
from tests.faults.traffic import Acknowledged, Polling, Publishing, Reporting, Traffic, check
from tests.support.cluster import start_cluster
from tests.support.craft import Craft
from tests.support.fleet import TEAM, Fleet
from tests.support.people import sign

STALE_S = 3
"""A replica that could not look at the database for so long answers no device."""
_PROGRESS_S = 60.0
_numbers = count(1)


@dataclass
class World:
    """The cluster, and one craft for everybody to work with."""

    cluster: Cluster
    fleet: Fleet
    craft: Craft
    key: Ed25519PrivateKey

    @property
    def first(self) -> Replica:
        return self.cluster.hubs[HUBS[0]]

    @property
    def second(self) -> Replica:
        return self.cluster.hubs[HUBS[1]]

    @contextmanager
    def at_work(self) -> Iterator["Work"]:
        """Everybody at work; at the end they get on, nothing surprised them, and what was acknowledged is there."""
        number = next(_numbers)
        work = Work(self, number)
        for one in work.everybody:
            one.start()
        try:
            work.wait_until_all_get_on()
            yield work
            work.wait_until_all_get_on()
        finally:
            for one in work.everybody:
                one.stop()
            for one in work.everybody:
                one.join(100)
        for one in work.everybody:
            assert not one.is_alive()
            assert one.surprise is None, repr(one.surprise)
            assert one.lost is None, f"the proxy lost a connection: {one.lost!r}"
        check(self.fleet, self.craft, work.yes, list(work.yes.releases), work.yes.reports)


class Work:
    """Who is at work.

    Attributes:
        yes: What was acknowledged.
    """

    def __init__(self, world: World, number: int) -> None:
        fleet, craft = world.fleet, world.craft
        self.yes = Acknowledged()
        self.publishing = Publishing(fleet, craft, self.yes, number)
        self.polling = Polling(fleet, craft, self.yes, number)
        self.polling.in_order = False
        self.reporting = Reporting(fleet, craft, self.yes, number, world.key)
        self.everybody: list[Traffic] = [self.publishing, self.polling, self.reporting]

    def wait_until_all_get_on(self) -> None:
        """Each has done something that began after this call."""
        wanted = [one.done + 2 for one in self.everybody]
        until(
            lambda: all(
                one.done >= done or not one.is_alive() for one, done in zip(self.everybody, wanted, strict=True)
            )
        )


def until(condition: Callable[[], bool], limit_s: float = _PROGRESS_S) -> None:
    """Wait for it."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s"
        time.sleep(0.02)


def refusals(traffic: Traffic) -> set[str]:
    """Codes with which somebody was sent away; a machine that is too busy with other tests is no fault of a cluster."""
    return set(traffic.turned_away) - {"overloaded"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cluster")
    with start_cluster(folder / "cluster", SDX_STALE_S=str(STALE_S)) as (cluster, fleet):
        craft = fleet.new_craft(folder / "craft", fleet.url)
        yield World(cluster, fleet, craft, fleet.device_key(craft))


def poll(at: str, token: str) -> httpx.Response:
    return httpx.get(f"{at}/device/v1/poll", headers=_bearer(token), timeout=30)


def test_postgresql_is_restarted(world: World) -> None:
    """Polls go on out of memory. What changes something may be turned away for a moment."""
    with world.at_work() as work:
        world.cluster.database.restart()
    # A restart on a busy machine can take longer than polls may be answered out of memory.
    assert refusals(work.polling) <= {"fleet_state_stale"}
    assert refusals(work.reporting) <= {"database_unavailable", "fleet_state_stale", "hub_unavailable"}


@pytest.mark.parametrize("gone_s", [STALE_S + 5, pytest.param(30, marks=pytest.mark.full)])
def test_postgresql_is_gone(world: World, gone_s: int) -> None:
    """Devices are answered for `stale_s` more, then sent away with 503 and told when to come; nothing is accepted."""
    with world.at_work() as work:
        world.cluster.database.stop("immediate")
        gone_at = time.monotonic()
        until(lambda: work.polling.turned_away["fleet_state_stale"] > 0, gone_s)
        reports, releases = len(work.yes.reports), len(work.yes.releases)
        for replica in world.cluster.hubs.values():
            answer = poll(replica.url, world.craft.token)
            assert (answer.status_code, answer.json()["code"]) == (503, "fleet_state_stale")
            assert int(answer.headers["retry-after"]) > 0
            assert httpx.get(f"{replica.url}/readyz", timeout=30).status_code == 503
        time.sleep(max(0.0, gone_at + gone_s - time.monotonic()))
        assert (len(work.yes.reports), len(work.yes.releases)) == (reports, releases)
        world.cluster.database.start()
    assert refusals(work.polling) == {"fleet_state_stale"}


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hangs"])
def test_the_object_store_is_gone(world: World, hangs: bool) -> None:
    """Who polls or reports notices nothing. Payloads are turned away with 503, both ways."""
    store = world.cluster.store
    with world.at_work() as work:
        published = next(iter(work.yes.releases.values()))
        (store.pause if hangs else store.kill)()
        before = work.reporting.done
        until(lambda: work.publishing.turned_away.total() > 0)
        with world.fleet.client() as client:
            answer = client.get(f"/blobs/{published}")
        assert (answer.status_code, answer.json()["code"]) == (503, "blob_store_unavailable")
        until(lambda: work.reporting.done > before + 5)
        (store.resume if hangs else store.start)()
    assert refusals(work.publishing) == {"blob_store_unavailable"}
    assert refusals(work.polling) == set()
    assert refusals(work.reporting) == set()


def test_the_object_store_is_full(world: World) -> None:
    """What is there can be read, nothing new comes in, and an upload goes on where it stopped once there is room."""
    content = os.urandom(3 * 1024**2)
    order = {"sha256": hashlib.sha256(content).hexdigest(), "length": len(content), "decoded_length": len(content)}
    with world.at_work() as work, world.fleet.client() as client:
        published = next(iter(work.yes.releases.values()))
        upload = client.post("/api/v1/uploads", json=order).raise_for_status().json()["id"]
        path, half = f"/api/v1/uploads/{upload}", len(content) // 2
        client.patch(path, content=content[:half], headers={"upload-offset": "0"}).raise_for_status()
        world.cluster.store.stop()
        world.cluster.store.start(full=True)
        refused = client.patch(path, content=content[half:], headers={"upload-offset": str(half)})
        assert refused.status_code == 503
        assert refused.json()["code"] in {"blob_store_unavailable", "storage_full"}
        until(lambda: client.get(f"/blobs/{published}").status_code == 200)
        world.cluster.store.stop()
        world.cluster.store.start()
        offset = client.get(path).raise_for_status().json()["offset"]
        assert offset >= half, "it was acknowledged"
        done = client.patch(path, content=content[offset:], headers={"upload-offset": str(offset)})
        assert done.raise_for_status().json()["complete"]
        assert client.get(f"/blobs/{order['sha256']}").content == content
    assert refusals(work.polling) == set()
    assert refusals(work.reporting) == set()


def test_a_replica_is_killed(world: World) -> None:
    """Craft notice nothing at all. A person's request that was under way there is answered with 503, once."""
    with world.at_work() as work:
        world.second.kill()
        work.wait_until_all_get_on()
        assert poll(world.fleet.url, world.craft.token).status_code == 200
        world.second.start()
        until(lambda: world.second.polls() > 0)  # The proxy has found it by itself.
    assert refusals(work.polling) == set()
    assert refusals(work.reporting) == set()
    assert refusals(work.publishing) <= {"hub_unavailable"}


def test_a_replica_is_paused_and_serves_no_stale_authority(world: World) -> None:
    """Whom the others have revoked meanwhile is refused from the first answer on: also requests that waited inside."""
    token = world.fleet.enrol_key(Ed25519PrivateKey.generate(), "to-be-revoked")
    until(lambda: poll(world.second.url, token).status_code == 200)
    with world.at_work() as work, ExitStack() as at_end:
        address = urlsplit(world.second.url).netloc
        kept = [at_end.enter_context(closing(http.client.HTTPConnection(address, timeout=30))) for _ in range(4)]
        for connection in kept:
            assert _answered(connection, token) == 200
        world.second.pause()
        try:
            paused_at = time.monotonic()
            for connection in kept:
                _ask(connection, token)  # It lies there, and is what the replica sees first.
            # People who talk to the other replica; through the proxy, one of them may have to wait for a minute.
            with _people(world, world.first) as client:
                until(lambda: client.post("/api/v1/devices/to-be-revoked/revoke").status_code == 200)
            assert poll(world.first.url, token).status_code == 403
            time.sleep(max(0.0, paused_at + STALE_S + 1 - time.monotonic()))
        finally:
            world.second.resume()
        assert {_status(connection) for connection in kept} <= {403, 503}
        for connection in kept:
            assert _answered(connection, token) in {403, 503}
        until(lambda: poll(world.second.url, token).status_code == 403)
        until(lambda: poll(world.second.url, world.craft.token).status_code == 200)
    # The proxy asks the other replica: nobody was sent away because of one that hangs.
    assert refusals(work.polling) <= {"fleet_state_stale"}


def test_the_clock_of_a_replica_is_an_hour_off(world: World, tmp_path: Path) -> None:
    """It lives in the database server's time: what it signs, whom it lets in, and when it saw a craft are right.

    S3 alone refuses whoever signs a quarter of an hour off: who brings a payload is sent away by this replica with 503.
    """
    ahead = _an_hour_ahead()
    with world.at_work() as work:
        published = next(iter(work.yes.releases.values()))
        world.second.stop()
        world.second.start(ahead)
        with _people(world, world.first) as right, _people(world, world.second) as wrong:
            offset = re.search(r"^sdx_clock_offset_seconds (\S+)$", wrong.get("/metrics").text, re.MULTILINE)
            assert offset, "an operator is told"
            assert float(offset[1]) == pytest.approx(-3600, abs=60)
            crafts = [_enrolled_by(maker, tmp_path) for maker in (wrong, right)]
            for maker, other in ((wrong, right), (right, wrong)):
                # Ten minutes to live: over already for one that believes its own clock, or an hour too long.
                made = maker.post("/api/v1/tokens", json={"name": "short", "role": "viewer", "life_s": 600}).json()
                assert _from_now(datetime.fromisoformat(made["expires_at"])) == pytest.approx(600, abs=60)
                assert other.get("/api/v1/whoami", headers=_bearer(made["token"])).status_code == 200
            # Signed by the one with the wrong clock: nobody has asked it for the first before, the second is pushed.
            path = f"/tuf/director/{crafts[1].device_id}/metadata/timestamp.json"
            signed = wrong.get(path, headers=_bearer(crafts[1].token)).raise_for_status().content
            assert _from_now(Metadata.from_bytes(signed).signed.expires) == pytest.approx(86400, abs=60)
            until(lambda: _refresh_team(world, wrong) == 200)
            signed = wrong.get("/tuf/image/metadata/timestamp.json").raise_for_status().content
            assert _from_now(Metadata.from_bytes(signed).signed.expires) == pytest.approx(86400, abs=60)
            assert poll(world.second.url, crafts[0].token).status_code == 200
            device = f"/api/v1/devices/{crafts[0].device_id}"
            until(lambda: right.get(device).json()["last_seen_at"] is not None)
            assert _from_now(datetime.fromisoformat(right.get(device).json()["last_seen_at"])) == pytest.approx(
                0, abs=60
            )
        with world.fleet.client() as client:
            # The proxy asks the other one for a payload that this one cannot fetch.
            assert {client.get(f"/blobs/{published}").status_code for _ in range(6)} == {200}
        world.second.stop()
        world.second.start()
    assert refusals(work.polling) == set()
    assert refusals(work.reporting) == set()
    assert refusals(work.publishing) <= {"blob_store_unavailable", "hub_unavailable"}


def _enrolled_by(people: httpx.Client, folder: Path) -> Craft:
    """A craft with an enrolment string of ten minutes, made and used at one replica."""
    craft = Craft(folder / f"craft-{people.base_url.port}", f"clock-{people.base_url.port}")
    made = people.post("/api/v1/enrol-tokens", json={"serial": craft.serial, "life_s": 600}).raise_for_status().json()
    assert craft.enrol(str(people.base_url), made["enrol_string"]).code == 0
    return craft


def _refresh_team(world: World, people: httpx.Client) -> int:
    """Bring the team's metadata with a new expiry to one replica, which signs a snapshot and a timestamp over it."""
    team = Metadata[Targets].from_bytes(people.get(f"/api/v1/trust/image/team-{TEAM}").content).signed
    raw = sign(rotation.refreshed_team(team, datetime.now(UTC)), world.fleet.people[f"team-{TEAM}"])
    return people.post("/api/v1/trust/image", json={"metadata": [base64.b64encode(raw).decode()]}).status_code


def _an_hour_ahead() -> dict[str, str]:
    """Variables for one process, which has all of its threads and its Rust in them; monotonic clocks stay."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed")
    shown = subprocess.run(
        ["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    return {"LD_PRELOAD": shown.stdout.strip(), "FAKETIME": "+3600", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _from_now(moment: datetime) -> float:
    return (moment - datetime.now(UTC)).total_seconds()


def _people(world: World, replica: Replica) -> httpx.Client:
    """People who talk to one replica: through the proxy, they would get either."""
    return httpx.Client(base_url=replica.url, headers=_bearer(world.fleet.admin_token), timeout=60)


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _ask(connection: http.client.HTTPConnection, token: str) -> None:
    connection.request("GET", "/device/v1/poll", headers=_bearer(token))


def _status(connection: http.client.HTTPConnection) -> int:
    response = connection.getresponse()
    response.read()
    return response.status


def _answered(connection: http.client.HTTPConnection, token: str) -> int:
    _ask(connection, token)
    return _status(connection)

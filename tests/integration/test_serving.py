"""`sdx hub serve`: how it starts, stops, refuses, and what is left when it is killed."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import FAST, Fleet, start_fleet
from tests.support.hub import SDX, HubProcess
from tests.support.people import hold_ceremony


def sdx(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SDX_")}
    command = [SDX, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=clean | environment)


def test_a_folder_without_a_ceremony_is_refused_in_words(tmp_path: Path) -> None:
    for data in (tmp_path / "nothing", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        refused = sdx("hub", "serve", "--data", data, "--port", "0", "--json")
        assert refused.returncode == 1, refused
        error = json.loads(refused.stdout)["error"]
        assert error["code"] == "hub_not_initialised"
        assert "sdx keys ceremony" in error["message"]
        assert "sdx hub init" in error["message"]
    # A database alone is no hub either.
    assert sdx("hub", "migrate", "--data", tmp_path / "migrated").returncode == 0
    refused = sdx("hub", "serve", "--data", tmp_path / "migrated", "--port", "0", "--json")
    assert json.loads(refused.stdout)["error"]["code"] == "hub_not_initialised"


def test_a_port_that_is_taken_is_refused(fleet: Fleet) -> None:
    """A second hub on the same port would silently get half of the first one's requests."""
    refused = sdx("hub", "serve", "--data", fleet.hub.data, "--port", fleet.hub.port, "--json")
    assert refused.returncode == 2, refused
    assert json.loads(refused.stdout)["error"]["code"] == "address_unusable"
    assert fleet.hub.ready()


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("SDX_LOG_LEVEL", "debug", "settings_unsafe"),
        ("SDX_PUBLIC_URL", "http://hub.example.org", "settings_unsafe"),
        ("SDX_TIMESTAMP_LIFE_S", "999999", "settings_unsafe"),
        ("SDX_POL_INTERVAL_S", "5", "settings_invalid"),
        ("SDX_WORKERS", "many", "settings_invalid"),
    ],
)
def test_settings_that_are_unsafe_or_unknown_stop_the_start(fleet: Fleet, name: str, value: str, code: str) -> None:
    refused = sdx("hub", "serve", "--data", fleet.hub.data, "--port", "0", "--json", **{name: value})
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"]["code"] == code


def test_an_older_database_is_brought_up_to_date_by_serve(tmp_path: Path) -> None:
    """`serve` migrates by itself; a database of a newer program is refused."""
    with start_fleet(tmp_path / "fleet") as fleet:
        assert fleet.hub.stop() == 0
        database = sqlite3.connect(fleet.hub.data / "hub.db")
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
        database.close()
        refused = sdx("hub", "serve", "--data", fleet.hub.data, "--port", "0", "--json")
        assert json.loads(refused.stdout)["error"]["code"] == "database_newer"


def test_sigterm_lets_a_request_end_and_writes_who_was_seen(tmp_path: Path) -> None:
    with start_fleet(tmp_path / "fleet") as fleet:
        raw = os.urandom(30 * 1024 * 1024)
        from tests.support.publisher import Payload

        manifest = fleet.publisher.publish("slow", "1.0.0", [Payload("app", raw)])
        token = fleet.enrol_key(Ed25519PrivateKey.generate(), "late")
        headers = {"authorization": f"Bearer {token}", "accept-encoding": "identity"}
        url = f"{fleet.url}/blobs/{manifest.components[0].sha256}"
        with httpx.stream("GET", url, headers=headers, timeout=30) as answer:
            pieces = answer.iter_raw()
            got = len(next(pieces))
            httpx.get(f"{fleet.url}/device/v1/poll", headers=headers)
            os.kill(fleet.hub.pid, signal.SIGTERM)
            for piece in pieces:
                got += len(piece)
        assert got == len(raw)
        assert fleet.hub.wait() == 0
        database = sqlite3.connect(fleet.hub.data / "hub.db")
        seen = database.execute("SELECT count(*) FROM device_seen").fetchone()[0]
        database.close()
        assert seen >= 1


def test_when_the_main_process_is_killed_its_workers_end(tmp_path: Path) -> None:
    with start_fleet(tmp_path / "fleet") as fleet:
        main = psutil.Process(fleet.hub.pid)
        workers = main.children()
        assert workers
        main.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive
        fleet.hub.close()


def test_a_worker_that_dies_ends_the_hub_with_a_failure(tmp_path: Path) -> None:
    """A service manager restarts it then; half a hub would go unnoticed."""
    with start_fleet(tmp_path / "fleet") as fleet:
        psutil.Process(fleet.hub.pid).children()[0].kill()
        assert fleet.hub.wait() == 1


def test_several_workers_are_one_hub(tmp_path: Path) -> None:
    """Each request may meet another worker: what one acknowledged, all of them know."""
    people = hold_ceremony(tmp_path / "ceremony", datetime.now(UTC), "nav")
    made = json.loads(
        sdx("hub", "init", "--data", tmp_path / "hub", "--ceremony", tmp_path / "ceremony", "--json").stdout
    )
    hub = HubProcess(tmp_path / "hub", FAST, workers=2)
    hub.start()
    try:
        from tests.support.publisher import Payload, Publisher

        signers = [person.signer for person in people["team-nav"]]
        publisher = Publisher(hub.url, made["admin_token"], signers)
        fleet = Fleet(
            tmp_path,
            hub,
            people,
            publisher,
            made["admin_token"],
            made["image_root_sha256"],
            made["director_root_sha256"],
        )
        assert len(psutil.Process(hub.pid).children()) == 2
        for number in range(4):
            publisher.publish("many", f"1.0.{number}", [Payload("app", f"{number}".encode())])
            token = fleet.enrol_key(Ed25519PrivateKey.generate(), f"many-{number}")
            with fleet.client() as client:
                device = client.get(f"/api/v1/devices/many-{number}").json()["id"]
            assert publisher.assign(f"many@1.0.{number}", device)["assigned"] == [device]
            bearer = {"authorization": f"Bearer {token}"}
            for _ in range(4):  # A new connection each: the kernel spreads them over the workers.
                assert httpx.get(f"{hub.url}/device/v1/poll", headers=bearer).status_code == 200
                answer = httpx.get(f"{hub.url}/tuf/director/{device}/metadata/timestamp.json", headers=bearer)
                assert answer.status_code == 200, answer.text
        polls = 0.0
        end = time.monotonic() + 10
        while polls < 16 and time.monotonic() < end:
            text = httpx.get(f"{hub.url}/metrics").text
            polls = sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("sdx_polls_total"))
            time.sleep(0.2)
        assert polls == 16, "the figures of all workers are added up"
        with fleet.client() as client:
            client.post("/api/v1/devices/many-0/revoke").raise_for_status()
        time.sleep(0.2)  # fleet_refresh_ms is 50 here: so long may another worker not know.
        assert fleet.doctor() == 0
        assert hub.stop() == 0
    finally:
        hub.close()


def test_many_idle_connections_do_not_keep_others_out(fleet: Fleet) -> None:
    """Craft keep their connections open between polls."""
    import resource
    import socket

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(5000, hard // 2)
    idle = [socket.create_connection(("127.0.0.1", fleet.hub.port), timeout=10) for _ in range(count)]
    try:
        started = time.monotonic()
        assert httpx.get(f"{fleet.url}/livez", timeout=10).status_code == 200
        assert time.monotonic() - started < 5
    finally:
        for connection in idle:
            connection.close()

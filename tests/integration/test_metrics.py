"""The figures of a hub with two workers are those of the hub, and what goes wrong is counted where it goes wrong."""

import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client.parser import text_string_to_metric_families

from firmware_schemas import canonical
from firmware_schemas.device_api import ProgressReport, Report, envelope
from sdx_hub.demo.servers.postgres import PostgresServer
from tests.support.fleet import Fleet, start_fleet
from tests.support.postgres import IN_A_HURRY

WITHIN_S = 30


class Figures:
    """Answers of `/metrics`, whichever worker gives them."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def now(self, name: str, **labels: str) -> float:
        text = httpx.get(f"{self._fleet.url}/metrics", timeout=30).text
        found = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found)

    def reaches(self, condition: Callable[[float], bool], name: str, **labels: str) -> None:
        """Return once this is so: a worker takes its figures over once a second."""
        end = time.monotonic() + WITHIN_S
        while not condition(value := self.now(name, **labels)):
            assert time.monotonic() < end, (name, labels, value)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with start_fleet(tmp_path_factory.mktemp("hub"), SDX_WORKERS="2") as running:
        yield running


@pytest.fixture
def figures(fleet: Fleet) -> Figures:
    return Figures(fleet)


def test_what_two_workers_counted_is_one_number(fleet: Fleet, figures: Figures) -> None:
    token = fleet.device_token
    before = figures.now("sdx_polls_total")
    for _ in range(20):  # Each on a connection of its own, so that both workers get some.
        httpx.get(f"{fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {token}"}).raise_for_status()
    figures.reaches(lambda polls: polls == before + 20, "sdx_polls_total")
    figures.reaches(lambda devices: devices == 1, "sdx_devices", state="accepted")
    assert figures.now("sdx_build_info") == 1
    assert time.time() - 600 < figures.now("sdx_start_time_seconds") <= time.time()
    assert figures.now("sdx_fleet_staleness_seconds") < figures.now("sdx_fleet_stale_after_seconds") == 10
    assert figures.now("sdx_clock_offset_seconds") == 0, "SQLite has no clock of its own"
    assert "pid=" not in httpx.get(f"{fleet.url}/metrics").text


def test_reports_are_counted_by_what_became_of_them(fleet: Fleet, figures: Figures) -> None:
    key = Ed25519PrivateKey.generate()
    token = fleet.enrol_key(key, "reporter")
    with fleet.client() as admin:
        identity = admin.get("/api/v1/devices/reporter").json()["id"]

    def signed(counter: int, by: Ed25519PrivateKey) -> dict[str, str]:
        report = Report(identity, counter, int(time.time()), ProgressReport(f"{identity}.1", "downloading"))
        payload = canonical.encode(report)
        made = envelope(payload, by.sign(payload))
        return {"payload": made.payload, "signature": made.signature}

    expected = {"accepted": 2, "duplicate": 1, "refused": 1}
    before = {status: figures.now("sdx_reports_total", status=status) for status in expected}
    with fleet.client(token) as client:
        sent = [signed(1, key), signed(1, key), signed(2, Ed25519PrivateKey.generate()), signed(3, key)]
        client.post("/device/v1/reports", json={"envelopes": sent}).raise_for_status()
    for status, count in expected.items():
        figures.reaches(lambda now, to=before[status] + count: now == to, "sdx_reports_total", status=status)
    figures.reaches(lambda commits: commits >= 1, "sdx_step_seconds_count", step="report.commit")
    assert figures.now("sdx_step_failures_total", step="report.commit") == 0


def test_a_refused_request_is_no_failure_of_a_step(fleet: Fleet, figures: Figures) -> None:
    with fleet.client() as client:
        assert client.get(f"/blobs/{'0' * 64}").status_code == 404
        assert client.get("/api/v1/devices/nobody").status_code == 404
    figures.reaches(lambda stats: stats > 0, "sdx_step_seconds_count", step="blob.stat")
    time.sleep(1.5)  # Both workers have taken their figures over.
    assert figures.now("sdx_step_failures_total") == 0


def test_who_looks_after_rollouts_and_when_is_seen(figures: Figures) -> None:
    figures.reaches(lambda leads: leads == 1, "sdx_rollout_leader")
    figures.reaches(lambda ticked_s: time.time() - ticked_s < 30, "sdx_rollout_last_tick_timestamp_seconds")
    figures.reaches(lambda ticks: ticks > 0, "sdx_step_seconds_count", step="rollout.tick")
    assert figures.now("sdx_rollout_decisions_total", rule="halt_gate") == 0


def test_streams_and_webhooks_are_counted(fleet: Fleet, figures: Figures) -> None:
    assert figures.now("sdx_event_streams_most") == 200, "two workers"
    with fleet.client() as client, client.stream("GET", "/api/v1/events") as stream:
        assert stream.status_code == 200
        figures.reaches(lambda count: count == 1, "sdx_event_streams_open")
    figures.reaches(lambda count: count == 0, "sdx_event_streams_open")
    assert figures.now("sdx_webhooks", state="enabled") == 0


def test_an_upload_under_way_is_seen_with_its_bytes(tmp_path) -> None:
    with start_fleet(tmp_path / "fleet") as fleet:
        figures = Figures(fleet)
        with fleet.client() as client:
            order = {"sha256": "1" * 64, "length": 20, "decoded_length": 20}
            upload = client.post("/api/v1/uploads", json=order).json()["id"]
            piece = client.patch(f"/api/v1/uploads/{upload}", content=b"0123456", headers={"upload-offset": "0"})
            piece.raise_for_status()
        fleet.hub.stop()
        fleet.restart_hub()  # They are counted at the start, and then every 30 seconds.
        figures.reaches(lambda count: count == 1, "sdx_uploads_open")
        assert figures.now("sdx_uploads_open_bytes") == 7
        assert (
            0
            < figures.now("sdx_storage_free_bytes", folder="blobs")
            < figures.now("sdx_storage_size_bytes", folder="blobs")
        )


def test_a_database_that_is_away_is_seen_while_it_is_and_afterwards(tmp_path) -> None:
    server = PostgresServer(tmp_path / "postgres", IN_A_HURRY)
    server.start()
    try:
        with start_fleet(tmp_path / "fleet", SDX_DATABASE_URL=server.url, SDX_STALE_S="1") as fleet:
            figures, token = Figures(fleet), fleet.device_token
            assert figures.now("sdx_database_errors_total") == 0
            server.stop("immediate")
            figures.reaches(lambda age: age > 1, "sdx_fleet_staleness_seconds")
            with fleet.client() as client, fleet.client(token) as device:
                assert client.get("/api/v1/whoami").status_code == 503
                assert device.get("/device/v1/poll").status_code == 503
            figures.reaches(lambda errors: errors > 0, "sdx_database_errors_total")
            figures.reaches(lambda polls: polls > 0, "sdx_polls_total", answer="unavailable")
            server.start()
            figures.reaches(lambda age: age < 1, "sdx_fleet_staleness_seconds")
    finally:
        server.stop("immediate")


def test_a_worker_that_lacks_a_new_key_counts_that_it_cannot_sign(tmp_path) -> None:
    """The one that took the new root in has opened its key already; the other finds none."""
    with start_fleet(tmp_path / "fleet", SDX_WORKERS="2") as fleet:
        figures, token, online = Figures(fleet), fleet.device_token, fleet.hub.data / "online"
        with fleet.client() as admin:
            identity = admin.get("/api/v1/devices/token-bearer").json()["id"]
        before = set(online.iterdir())
        fleet.rotate_online_keys("director")
        for key in set(online.iterdir()) - before:
            key.unlink()

        def ask(failures: float) -> bool:
            with fleet.client(token) as device:
                device.get(f"/tuf/director/{identity}/metadata/timestamp.json")
            return failures > 0

        figures.reaches(ask, "sdx_step_failures_total", step="sign.director")

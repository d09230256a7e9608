"""Traces: a real hub sends its spans to a collector; without one it does not even load what makes them."""

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.collector import Collector, collecting
from tests.support.fleet import Fleet, start_fleet

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ATTRIBUTES = {"http.request.method", "http.route", "http.response.status_code"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Fleet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # Milliseconds until spans are sent; five seconds otherwise.
        with start_fleet(tmp_path_factory.mktemp("hub"), SDX_OTLP_ENDPOINT=collector.url) as running:
            yield running


def test_a_request_is_a_span_of_its_callers_trace_with_its_work_below(fleet: Fleet, collector: Collector) -> None:
    with fleet.client() as client:
        client.get("/api/v1/devices/nobody", headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
    span = collector.wait_for("GET /api/v1/devices/{device}")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    assert {item.key: item.value.string_value or item.value.int_value for item in span.attributes} == {
        "http.request.method": "GET",
        "http.route": "/api/v1/devices/{device}",
        "http.response.status_code": 404,
    }
    assert span.status.code == span.status.STATUS_CODE_UNSET, "a refusal is no fault"
    below = [other for other in collector.spans if other.trace_id == span.trace_id and other is not span]
    assert {other.name for other in below} == {"database.read"}
    assert all(other.parent_span_id == span.span_id for other in below)
    assert collector.resources[0]["service.name"] == "sdx-hub"


def test_signing_payloads_and_transactions_are_spans(fleet: Fleet, collector: Collector) -> None:
    fleet.publish_next()
    device = fleet.enrol_key(Ed25519PrivateKey.generate(), "traced")
    with fleet.client() as admin:
        identity = admin.get("/api/v1/devices/traced").json()["id"]
    with fleet.client(device) as client:
        client.get(f"/tuf/director/{identity}/metadata/timestamp.json").raise_for_status()
    names = ("sign.image", "sign.director", "database.write", "blob.put")
    roots = {collector.wait_for(name).trace_id for name in names}

    def requests() -> set[bytes]:
        return {span.trace_id for span in collector.spans if span.kind == span.SPAN_KIND_SERVER}

    collector.wait_until(lambda: roots <= requests())  # Work belongs to the request that caused it.


def test_no_poll_is_traced_and_no_name_or_secret_is_sent(fleet: Fleet, collector: Collector) -> None:
    token = fleet.device_token
    for _ in range(3):
        httpx.get(f"{fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {token}"}).raise_for_status()
    with fleet.client() as client:
        identity = client.get("/api/v1/devices/token-bearer").json()["id"]
        client.get("/api/v1/devices", params={"tag": "a-secret-tag"})
        client.get(f"/blobs/{'0' * 64}")
        client.get("/api/v1/releases/last")
    collector.wait_for("GET /api/v1/releases/{release}")
    requests = [span for span in collector.spans if span.kind == span.SPAN_KIND_SERVER]
    routes = [{item.key: item.value.string_value for item in span.attributes}.get("http.route") for span in requests]
    assert None not in routes, "the framework sees no poll, so that one would have no route"
    assert "/device/v1/poll" not in routes
    for text in (token, fleet.admin_token, identity, "token-bearer", "a-secret-tag", "0" * 64, "traceback"):
        assert text.encode() not in collector.raw, text
    assert {item.key for span in collector.spans for item in span.attributes} == ATTRIBUTES


def test_a_collector_that_is_away_disturbs_nobody(tmp_path) -> None:
    with collecting() as gone:
        url = gone.url
    with start_fleet(tmp_path / "fleet", SDX_OTLP_ENDPOINT=url) as fleet, fleet.client() as client:
        assert client.get("/api/v1/whoami").status_code == 200
        assert fleet.hub.stop() == 0


def test_without_a_collector_nothing_of_it_is_loaded() -> None:
    code = "import sys, sdx_hub.app, sdx_hub.cli.serving; sys.exit('opentelemetry' in ' '.join(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_hub_that_cannot_trace_says_what_to_do(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra is one in which Python finds no `opentelemetry`."""
    program = "import sys; sys.modules['opentelemetry'] = None; from sdx_hub.cli.main import main; main()"
    for endpoint, code, hint in (
        ("http://127.0.0.1:4318", "otel_missing", "pip install 'sdx-hub[otel]'"),
        ("collector:4318", "otlp_endpoint_invalid", "http://collector:4318"),
        ("http://me:secret@collector:4318", "otlp_endpoint_invalid", "OTEL_EXPORTER_OTLP_HEADERS"),
    ):
        monkeypatch.setenv("SDX_OTLP_ENDPOINT", endpoint)
        done = subprocess.run(
            [sys.executable, "-c", program, "hub", "serve", "--data", str(fleet.hub.data), "--port", "0"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert code in done.stderr
        assert hint in done.stderr
        assert "secret" not in done.stderr

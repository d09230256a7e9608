"""Health, figures, the schema and its UI, as those see them who run the hub."""

import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.fleet import Fleet, start_fleet


def figures(fleet: Fleet) -> dict[str, float]:
    answer = httpx.get(f"{fleet.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = (line.rpartition(" ") for line in answer.text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def test_livez_and_readyz(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.url}/livez").text == "ok"
    ready = httpx.get(f"{fleet.url}/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "alarms": []})
    assert ready.headers["cache-control"] == "no-store"


def test_metrics_count_devices_polls_requests_and_expiry(fleet: Fleet) -> None:
    before = figures(fleet)
    token = fleet.enrol_key(Ed25519PrivateKey.generate(), "measured")
    for _ in range(3):
        httpx.get(f"{fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {token}"})
    httpx.get(f"{fleet.url}/device/v1/poll")
    for path in ("/api/v1/devices/a", "/api/v1/devices/b", "/nowhere/1", "/nowhere/2"):
        with fleet.client() as client:
            client.get(path)
    after = figures(fleet)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown('sdx_devices{state="accepted"}') == 1
    assert grown('sdx_polls_total{answer="changed"}') == 3
    assert grown('sdx_polls_total{answer="refused"}') == 1
    assert grown('sdx_http_requests_total{method="GET",path="/api/v1/devices/{device}",status="404"}') == 2
    assert grown('sdx_http_requests_total{method="GET",path="-",status="404"}') == 2
    assert not [name for name in after if "/nowhere" in name], "paths that nobody made must not become series"
    day_s = 86_400
    assert 0 < after['sdx_metadata_expiry_seconds{repository="image",role="timestamp"}'] <= day_s
    assert after['sdx_metadata_expiry_seconds{repository="image",role="root"}'] > 360 * day_s
    assert after['sdx_metadata_expiry_seconds{repository="director",role="root"}'] > 360 * day_s
    assert after['sdx_metadata_expiry_seconds{repository="image",role="team-nav"}'] > 80 * day_s


def test_the_timestamp_is_signed_anew_by_itself(tmp_path) -> None:
    """Nobody asks for it, and it still never comes near its expiry."""
    with start_fleet(tmp_path / "fleet", SDX_TIMESTAMP_LIFE_S="8", SDX_RESIGN_CHECK_S="1") as fleet:

        def left_s() -> float:
            return figures(fleet)['sdx_metadata_expiry_seconds{repository="image",role="timestamp"}']

        end = time.monotonic() + 10
        while left_s() > 8:  # The one of `sdx hub init` lasts a day.
            assert time.monotonic() < end
            time.sleep(0.1)
        end, seen = time.monotonic() + 12, []
        while time.monotonic() < end:
            seen.append(left_s())
            time.sleep(0.3)
        assert 3 < min(seen) < max(seen) <= 8, "half of its life is four seconds"
        assert sum(later > earlier for earlier, later in pairwise(seen)) >= 3
        log = fleet.hub.text()
        assert "loop_failed" not in log


class Outside(HTMLParser):
    """Collects every address that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href", "action", "data"}]


def test_the_schemas_ui_loads_nothing_from_outside(fleet: Fleet) -> None:
    page = httpx.get(f"{fleet.url}/schema")
    assert page.headers["content-type"].startswith("text/html")
    parser = Outside()
    parser.feed(page.text)
    loaded = [address for address in parser.found if not address.startswith("data:")]
    assert len(loaded) == 3
    for address in loaded:
        assert address.startswith("/schema-assets/"), address
        asset = httpx.get(f"{fleet.url}{address}")
        assert asset.status_code == 200
        assert len(asset.content) > 10_000
    policy = page.headers["content-security-policy"]
    sources = set(re.findall(r"'[a-z-]+'|data:|\S+://\S+", policy))
    assert sources == {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert policy.startswith("default-src 'none'")


def test_the_schema_is_openapi_3_1_and_whole(fleet: Fleet) -> None:
    schema = httpx.get(f"{fleet.url}/schema/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    for path in (
        *("/api/v1/whoami", "/api/v1/tokens", "/api/v1/uploads", "/api/v1/releases", "/api/v1/releases/{release}"),
        *("/api/v1/trust", "/api/v1/devices", "/api/v1/devices/{device}", "/api/v1/assignments", "/api/v1/audit"),
        *("/device/v1/enrol", "/device/v1/reports", "/blobs/{sha256}", "/tuf/image/metadata/{name}"),
        *("/tuf/image/targets/{target}", "/livez", "/readyz"),
    ):
        assert path in schema["paths"], path
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), f"{method} {path} says nothing about itself"


def test_a_request_id_is_kept_or_given(fleet: Fleet) -> None:
    given = httpx.get(f"{fleet.url}/livez", headers={"sdx-request-id": "proxy-12345678"})
    assert given.headers["sdx-request-id"] == "proxy-12345678"
    for odd in ("short", "x" * 65, "with space 123", 'quote"12345678'):
        made = httpx.get(f"{fleet.url}/livez", headers={"sdx-request-id": odd}).headers["sdx-request-id"]
        assert made != odd
    httpx.get(f"{fleet.url}/api/v1/whoami", headers={"sdx-request-id": "found-in-the-log"})
    assert "request_id=found-in-the-log" in fleet.hub.text()

"""The proxy's configuration in the real nginx, in front of two replicas that do as they are told."""

import re
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from firmware_schemas.limits import MAX_REPORT_BODY_BYTES, MAX_UPLOAD_CHUNK_BYTES
from sdx_hub.api.application import application
from sdx_hub.api.releases import MAX_BODY_BYTES
from sdx_hub.api.trust import MAX_PUSH_BODY_BYTES
from sdx_hub.demo.cluster.certificates import CA_FILE, make_certificates
from sdx_hub.demo.cluster.proxy import Proxy, find_template
from sdx_hub.demo.cluster.topology import (
    HUBS,
    IN_CONTAINERS,
    POLL_INTERVAL_S,
    HubPlace,
    proxy_config,
    proxy_variables,
)
from sdx_hub.demo.servers.ports import free_ports
from tests.unit.deploy.upstream import EVERYWHERE, Upstream

INTERNAL = frozenset({"/livez", "/readyz", "/metrics", "/schema", "/schema-assets"})
_LOCATION = re.compile(r"location (?:= |\^~ )?(/\S*) \{(.*?)\n        \}", re.DOTALL)
_UNITS = {"k": 1024, "m": 1024**2}


class Front(NamedTuple):
    url: str
    client: httpx.Client
    first: Upstream
    second: Upstream
    tls: Path
    log: Path

    @property
    def upstreams(self) -> tuple[Upstream, Upstream]:
        return self.first, self.second

    @property
    def asked(self) -> list[str]:
        return [f"{one.method} {one.path}" for upstream in self.upstreams for one in upstream.asked]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    both = Upstream("first"), Upstream("second")
    yield both
    for upstream in both:
        upstream.close()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@contextmanager
def proxy_before(upstreams: tuple[Upstream, Upstream], tls: Path, folder: Path) -> Iterator[Front]:
    """nginx, new for each test: it remembers whom it found dead."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    for upstream in upstreams:
        upstream.forget()
    listens, status = free_ports(2)
    hubs = zip(HUBS, upstreams, strict=True)
    places = msgspec.structs.replace(
        IN_CONTAINERS,
        hubs={name: HubPlace("127.0.0.1", upstream.port, "127.0.0.1", "") for name, upstream in hubs},
        public_url=f"https://localhost:{listens}",
        proxy_listens=f"127.0.0.1:{listens}",
        proxy_status=f"127.0.0.1:{status}",
        proxy_tls=str(tls),
        proxy_run=str(folder / "run"),
        proxy_log=str(folder / "access.log"),
        connections=500,
    )
    proxy = Proxy(places, folder)
    proxy.start()
    trusted = ssl.create_default_context(cafile=str(tls / CA_FILE))
    try:
        with httpx.Client(base_url=proxy.url, verify=trusted, timeout=30) as client:
            yield Front(proxy.url, client, *upstreams, tls, folder / "access.log")
    finally:
        proxy.stop()


@pytest.fixture
def front(upstreams: tuple[Upstream, Upstream], tls: Path, tmp_path: Path) -> Iterator[Front]:
    with proxy_before(upstreams, tls, tmp_path) as front:
        yield front


def blocks() -> dict[str, str]:
    """The locations that are offered, and what is said of each."""
    offered = find_template().partition("server {\n        listen ${PROXY_LISTEN}")[2]
    return {path: block for path, block in _LOCATION.findall(offered) if "proxy_pass" in block}


def body_limit(path: str) -> int:
    found = re.search(r"client_max_body_size (\d+)([km]);", blocks()[path])
    assert found, path
    return int(found[1]) * _UNITS[found[2]]


def test_nginx_accepts_what_the_containers_get(tmp_path: Path) -> None:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    make_certificates(tmp_path / "tls")
    places = msgspec.structs.replace(IN_CONTAINERS, proxy_tls=str(tmp_path / "tls"), proxy_run=str(tmp_path))
    said = Proxy(places, tmp_path).check()
    assert "test is successful" in said
    # More connections than this machine lets anybody have open is all that it may say beside this.
    assert [line for line in said.splitlines() if "[warn]" in line and "worker_connections" not in line] == []


def test_everything_that_the_template_asks_for_is_given_and_used() -> None:
    template = find_template()
    asked = set(re.findall(r"\$\{(\w+)\}", template))
    assert asked == set(proxy_variables(IN_CONTAINERS))
    assert "${" not in proxy_config(proxy_variables(IN_CONTAINERS), template).replace("${PROXY_...}", "")


def test_every_path_of_the_hub_is_offered_or_is_internal() -> None:
    app = application(lambda: None, "0")  # type: ignore[arg-type, return-value]
    paths = {route.path for route in app.routes}
    prefixes = tuple(blocks())
    offered = {path for path in paths if path.startswith(prefixes)}
    hidden = {"/" + path.split("/")[1] for path in paths - offered}
    assert hidden <= INTERNAL, "a path that devices or people cannot reach"
    assert {path for path in offered if path.startswith(tuple(INTERNAL))} == set()


def test_bodies_may_be_as_large_as_the_hub_takes_them() -> None:
    assert body_limit("/api/v1/uploads") == MAX_UPLOAD_CHUNK_BYTES
    assert body_limit("/api/") == max(MAX_PUSH_BODY_BYTES, MAX_BODY_BYTES)
    assert body_limit("/device/v1/") == MAX_REPORT_BODY_BYTES


@pytest.mark.parametrize("path", ["/metrics", "/schema", "/schema/openapi.json", "/livez", "/readyz", "/", "/status"])
def test_what_is_internal_is_not_there(front: Front, path: str) -> None:
    answer = front.client.get(path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    assert front.asked == []


def test_polls_are_spread_over_kept_connections(front: Front) -> None:
    for _ in range(40):
        assert front.client.get("/device/v1/poll").status_code == 200
    assert [len(upstream.asked) for upstream in front.upstreams] == [20, 20]
    # At most one for each worker of nginx, beside those that it has kept.
    assert all(upstream.connections <= 4 for upstream in front.upstreams)


def test_a_poll_does_not_see_a_replica_die(front: Front) -> None:
    front.first.hangs_up = EVERYWHERE
    answers = [front.client.get("/device/v1/poll") for _ in range(20)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "second")}
    # It was asked at all, and soon no more.
    assert 1 <= len(front.first.asked) < 10


def test_a_poll_that_one_replica_cannot_answer_is_answered_by_the_other(front: Front) -> None:
    front.first.status = 503
    answers = [front.client.get("/device/v1/poll") for _ in range(20)]
    assert {(answer.status_code, answer.text) for answer in answers} == {(200, "second")}
    # A 503 is an answer: the replica stays in service, for what it can do.
    assert len(front.first.asked) >= 10


def test_when_nobody_can_answer_a_poll_the_hubs_own_words_arrive(front: Front) -> None:
    for upstream in front.upstreams:
        upstream.status = 503
    answers = [front.client.get("/device/v1/poll") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"7"}
    for upstream in front.upstreams:
        upstream.status = 200
    assert front.client.get("/device/v1/poll").status_code == 200, "no replica was counted out"


def test_when_no_replica_is_there_a_fleet_is_told_to_come_back_spread_out(front: Front) -> None:
    for upstream in front.upstreams:
        upstream.hangs_up = EVERYWHERE
    answers = [front.client.get("/device/v1/poll") for _ in range(60)]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} == {"hub_unavailable"}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    waits = {int(answer.headers["retry-after"]) for answer in answers}
    assert len(waits) > 1
    assert min(waits) >= POLL_INTERVAL_S


def test_work_that_fails_takes_no_replica_away_from_those_who_poll(front: Front) -> None:
    """A database or a store that hangs is nothing that a poll needs."""
    for upstream in front.upstreams:
        upstream.hangs_up = "/blobs/"
    assert {front.client.get("/blobs/x").status_code for _ in range(8)} == {503}
    assert {front.client.get("/device/v1/poll").status_code for _ in range(8)} == {200}


def test_a_payload_that_one_replica_cannot_fetch_comes_from_the_other(front: Front) -> None:
    front.first.status = 503
    assert {front.client.get("/blobs/x").text for _ in range(8)} == {"second"}


def test_a_piece_of_an_upload_is_never_sent_twice(front: Front) -> None:
    for upstream in front.upstreams:
        upstream.hangs_up = EVERYWHERE
    answer = front.client.patch("/api/v1/uploads/u", content=b"x" * 100_000, headers={"upload-offset": "0"})
    assert answer.status_code == 503, "what a publisher's command takes for: ask how far it is, and go on"
    assert front.asked == ["PATCH /api/v1/uploads/u"]


def test_a_change_by_people_is_never_sent_twice(front: Front) -> None:
    for upstream in front.upstreams:
        upstream.hangs_up = EVERYWHERE
    assert front.client.post("/api/v1/assignments", json={}).status_code == 503
    assert front.asked == ["POST /api/v1/assignments"]


def test_reports_are_sent_to_the_other_replica(front: Front) -> None:
    front.first.hangs_up = EVERYWHERE
    for _ in range(4):
        answer = front.client.post("/device/v1/reports", content=b"signed")
        assert (answer.status_code, answer.text) == (200, "second")
    assert {one.body for upstream in front.upstreams for one in upstream.asked} == {b"signed"}


def logged(front: Front, text: str) -> str:
    """The log once it holds this; the line of a request is written after its answer."""
    end = time.monotonic() + 10
    while text not in (log := front.log.read_text()):
        assert time.monotonic() < end, log
        time.sleep(0.01)
    return log


def test_each_event_is_passed_on_at_once(front: Front) -> None:
    """Not when a buffer is full, and not when the stream ends: each comes before the next one is sent."""
    for upstream in front.upstreams:
        upstream.streams = "/api/v1/events"
    with front.client.stream("GET", "/api/v1/events?subject=ro-1") as stream:
        pieces = stream.iter_raw()
        for number in range(3):
            assert next(pieces) == b"id: %d\n\n" % number
            for upstream in front.upstreams:
                upstream.goes_on.release()


def test_the_request_id_is_the_proxys(front: Front) -> None:
    front.client.get("/tuf/image/metadata/a.json", headers={"sdx-request-id": "of-the-client"})
    (asked,) = [one for upstream in front.upstreams for one in upstream.asked]
    assert re.fullmatch(r"[0-9a-f]{32}", asked.headers["sdx-request-id"])
    assert logged(front, asked.headers["sdx-request-id"])


def test_no_secret_gets_into_the_log(front: Front) -> None:
    bearer = {"authorization": "Bearer sdx_a-secret", "cookie": "session=a-secret"}
    front.client.get("/device/v1/poll", headers=bearer)
    front.client.get("/api/v1/devices?cursor=a-secret", headers=bearer)
    log = logged(front, "/api/v1/devices")
    assert "a-secret" not in log
    assert "/device/v1/poll" not in log, "a million lines a minute"


def poll(front: Front, context: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
    """Poll over a new connection; say whether it resumed the session, and what the next one can resume."""
    host, _, port = front.url.removeprefix("https://").rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host, session=session) as secure,
    ):
        secure.sendall(b"GET /device/v1/poll HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        while secure.recv(4096):
            pass
        return bool(secure.session_reused), secure.session


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda each: each.name)
def test_a_session_is_resumed(front: Front, newest: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(front.tls / CA_FILE))
    context.maximum_version = newest
    session, resumed = None, []
    for _ in range(4):
        again, session = poll(front, context, session)
        resumed.append(again)
    # Whichever worker of nginx answers: they share the key of the tickets.
    assert resumed == [False, True, True, True]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "each its own"])
def test_several_proxies_resume_each_others_sessions_with_a_shared_key(
    upstreams: tuple[Upstream, Upstream], tls: Path, tmp_path: Path, shared: bool
) -> None:
    """As docs/guides/cluster.md says: 80 random bytes, named in tickets.conf beside the certificate."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        shutil.copytree(tls, folder / "tls")
        if shared:
            (folder / "tls" / "ticket.key").write_bytes(bytes(range(80)))
            (folder / "tls" / "tickets.conf").write_text(f"ssl_session_ticket_key {folder}/tls/ticket.key;\n")
    one, two = folders
    context = ssl.create_default_context(cafile=str(tls / CA_FILE))
    with (
        proxy_before(upstreams, one / "tls", one) as first,
        proxy_before(upstreams, two / "tls", two) as second,
    ):
        _, session = poll(first, context, None)
        assert poll(second, context, session)[0] is shared


def test_old_tls_is_refused(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.tls / CA_FILE))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA256")  # TLS 1.2 without forward secrecy.
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = front.url.removeprefix("https://").rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(plain, server_hostname=host),
    ):
        pass

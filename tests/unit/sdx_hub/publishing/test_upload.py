"""Resumable uploads against a real HTTP server that loses connections, answers and itself."""

import hashlib
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import zstandard

from sdx_hub.domain.errors import ConflictError, TrustError, Unavailable
from sdx_hub.publishing import building, upload
from sdx_hub.publishing.building import ComponentSource, ReleaseRequest
from sdx_hub.publishing.bundle import Bundle, manifest_digest
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.upload import Uploader

CHUNK = 1000


class Hub:
    """Takes uploads as the contract says; `trouble` is called for every PATCH and may return a word.

    Words: `drop` closes the connection before anything is kept, `lose` keeps the piece and closes the connection,
    `half` keeps half of the piece, `503`, `409`, and `stuck` does not move.
    """

    def __init__(self) -> None:
        self.orders: dict[str, dict[str, Any]] = {}
        self.data: dict[str, bytearray] = {}
        self.blobs: dict[str, bytes] = {}
        self.trouble: Callable[[int], str] = lambda _: ""
        self.patches = 0
        self.received = 0

    def begin(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["sha256"] in self.blobs:
            return {"exists": True}
        name = order["sha256"][:16]
        self.orders[name] = order
        return {"id": name, "offset": len(self.data.setdefault(name, bytearray()))}

    def append(self, name: str, offset: int, piece: bytes) -> tuple[int, dict[str, Any] | None]:
        self.patches += 1
        word = self.trouble(self.patches)
        held = self.data[name]
        if word == "503":
            return 503, {"code": "unavailable", "detail": "Try again."}
        if offset != len(held) or word == "409":
            return 409, {"code": "offset_mismatch", "detail": "Elsewhere.", "offset": len(held)}
        if word == "drop":
            return 0, None
        if word == "stuck":
            return 200, {"offset": offset, "complete": False}
        held += piece[: len(piece) // 2] if word == "half" else piece
        self.received += len(piece)
        complete = len(held) == self.orders[name]["length"]
        if complete:
            order = self.orders[name]
            raw = bytes(held)
            self.blobs[order["sha256"]] = zstandard.decompress(raw) if order["encoding"] == "zstd" else raw
        return (0, None) if word == "lose" else (200, {"offset": len(held), "complete": complete})


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer(200, hub.begin(json.loads(self._body())))

        def do_PATCH(self) -> None:
            offset = int(self.headers["Upload-Offset"])
            status, document = hub.append(self.path.rpartition("/")[2], offset, self._body())
            if document is None:
                self.close_connection = True
                self.connection.close()
            else:
                self._answer(status, document)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def _answer(self, status: int, document: dict[str, Any]) -> None:
            raw = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(upload, "UPLOAD_CHUNK_BYTES", CHUNK)
    file = tmp_path / "payload"
    file.write_bytes(bytes(range(256)) * 4 + secrets.token_bytes(9000))
    request = ReleaseRequest("nav", "1.0.0", (ComponentSource("app", "file", file),), sbom=_sbom(tmp_path))
    return building.build(request, tmp_path / "x.sdx")


def _sbom(tmp_path: Path) -> Path:
    path = tmp_path / "bom.json"
    path.write_text("{}")
    return path


def send(hub: Hub, release: Bundle) -> tuple[list[str], int, list[float]]:
    done: list[int] = []
    pauses: list[float] = []
    with serving(hub) as url, HubClient(url, "sdx_x") as client:
        sent = Uploader(client, done.append, pauses.append).send(release)
    return sent, sum(done), pauses


def everything(release: Bundle) -> set[str]:
    return {*release.payloads, *release.documents, manifest_digest(release)}


def assert_whole(hub: Hub, release: Bundle) -> None:
    assert hub.blobs.keys() == everything(release)
    for sha256, content in hub.blobs.items():
        assert hashlib.sha256(content).hexdigest() == sha256
    assert hub.blobs[manifest_digest(release)] == release.manifest_raw


def test_everything_arrives_in_pieces_and_is_reported_once(release: Bundle) -> None:
    hub = Hub()
    sent, reported, _ = send(hub, release)
    assert set(sent) == everything(release)
    assert reported == upload.upload_bytes(release)
    assert hub.patches > 9
    assert_whole(hub, release)


def test_what_the_hub_has_is_not_sent_again(release: Bundle) -> None:
    hub = Hub()
    send(hub, release)
    patches = hub.patches
    sent, reported, _ = send(hub, release)
    assert (sent, hub.patches) == ([], patches)
    assert reported == upload.upload_bytes(release), "the bar still reaches its end"


@pytest.mark.parametrize("word", ["drop", "lose", "half", "503", "409"])
def test_trouble_in_the_middle_costs_at_most_one_piece(release: Bundle, word: str) -> None:
    hub = Hub()
    hub.trouble = lambda number: word if number in {2, 5} else ""
    _, reported, pauses = send(hub, release)
    assert_whole(hub, release)
    assert reported == upload.upload_bytes(release)
    assert hub.received <= upload.upload_bytes(release) + 2 * CHUNK
    assert len(pauses) == (0 if word in {"half", "409"} else 2)


def test_a_publisher_that_was_interrupted_goes_on_from_the_hubs_offset(release: Bundle) -> None:
    hub = Hub()

    done = 0

    def watch(count: int) -> None:
        nonlocal done
        done += count
        if done > 4 * CHUNK:
            raise KeyboardInterrupt

    with serving(hub) as url, HubClient(url) as client, pytest.raises(KeyboardInterrupt):
        Uploader(client, watch).send(release)
    before = hub.received
    assert before >= 4 * CHUNK
    send(hub, release)
    assert hub.received == upload.upload_bytes(release), "no byte was sent twice"
    assert_whole(hub, release)


def test_a_hub_that_stays_away_ends_the_attempts(release: Bundle) -> None:
    hub = Hub()
    hub.trouble = lambda _: "503"
    with pytest.raises(Unavailable):
        send(hub, release)
    assert hub.patches == 6


def test_a_hub_that_never_moves_is_not_believed(release: Bundle) -> None:
    hub = Hub()
    hub.trouble = lambda _: "stuck"
    with pytest.raises(TrustError) as refused:
        send(hub, release)
    assert refused.value.code == "answer_invalid"
    hub.trouble = lambda _: "409"
    with pytest.raises(ConflictError) as conflict:
        send(hub, release)
    assert conflict.value.code == "offset_mismatch"

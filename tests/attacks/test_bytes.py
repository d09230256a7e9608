"""Attacks on the bytes: payloads and metadata that are changed, endless, slow, or too large."""

import os

import pytest

from tests.attacks.conftest import Scene
from tests.support.mitm import Answer, Request, dripping, endless


def blob_rule(digest: str, answer: Answer):
    def rule(request: Request) -> Answer | None:
        return answer if request.path.endswith(f"/blobs/{digest}") and request.method == "GET" else None

    return rule


def digest_of(scene: Scene, component: str) -> str:
    part = scene.new.component(component)
    assert part is not None
    return part.sha256


def length_of(scene: Scene, component: str) -> int:
    part = scene.new.component(component)
    assert part is not None
    return part.length


def test_tampered_payload(scene: Scene) -> None:
    """One bit of the payload is another on the way."""
    digest = digest_of(scene, "server")
    length = length_of(scene, "server")
    scene.assign_new()

    def flip(request: Request) -> Answer | None:
        if not request.path.endswith(f"/blobs/{digest}"):
            return None
        request.headers = {k: v for k, v in request.headers.items() if k.lower() != "accept-encoding"}
        status, headers, body = request.forward()
        return status, headers, bytes([body[0] ^ 1]) + body[1:] if body else body

    scene.assert_refused("payload_digest_mismatch", lambda: scene.mitm.lie(flip))
    assert length > 1000
    scene.assert_recovers()


def test_endless_data_in_a_payload(scene: Scene) -> None:
    scene.assign_new()
    rule = blob_rule(digest_of(scene, "server"), (200, {}, endless()))
    scene.assert_refused("payload_too_large", lambda: scene.mitm.lie(rule))
    scene.assert_recovers()


def test_endless_data_in_metadata(scene: Scene) -> None:
    scene.assign_new()

    def rule(request: Request) -> Answer | None:
        return (200, {}, endless()) if request.path.endswith("/metadata/timestamp.json") else None

    scene.assert_refused("metadata_too_large", lambda: scene.mitm.lie(rule))
    scene.assert_recovers()


def test_slow_retrieval_of_a_payload(scene: Scene) -> None:
    """A byte every half second keeps a naive client busy for ever."""
    scene.craft.settings("[limits]\nmin_rate_bytes_s = 1000\nrate_window_s = 2\n")
    scene.assign_new()
    length, digest = length_of(scene, "server"), digest_of(scene, "server")

    def rule(request: Request) -> Answer | None:
        # The craft tries more than once: each time it gets a drip of its own.
        slow = request.path.endswith(f"/blobs/{digest}")
        return (200, {"x-claim-length": str(length)}, dripping(b"\0" * length)) if slow else None

    scene.assert_refused("payload_too_slow", lambda: scene.mitm.lie(rule))
    scene.assert_recovers()


def test_slow_retrieval_of_metadata(scene: Scene) -> None:
    scene.craft.settings("[limits]\nmetadata_deadline_s = 3\n")
    scene.assign_new()

    def rule(request: Request) -> Answer | None:
        slow = request.path.endswith("/metadata/timestamp.json")
        return (200, {"x-claim-length": "900"}, dripping(b"{" * 900)) if slow else None

    scene.assert_refused("metadata_too_slow", lambda: scene.mitm.lie(rule))
    scene.assert_recovers()


@pytest.mark.parametrize("claimed", [True, False])
def test_metadata_above_the_size_bound(scene: Scene, *, claimed: bool) -> None:
    """100 MB of metadata, with and without an honest Content-Length."""
    scene.assign_new()
    chunk = os.urandom(1024) * 1024

    def rule(request: Request) -> Answer | None:
        if not request.path.endswith("/metadata/timestamp.json"):
            return None
        headers = {"x-claim-length": str(100 * 1024 * 1024)} if claimed else {}
        return 200, headers, (chunk for _ in range(100))

    scene.assert_refused("metadata_too_large", lambda: scene.mitm.lie(rule))
    scene.assert_recovers()


def test_a_compression_bomb_in_transport(scene: Scene) -> None:
    """A few kilobytes that unpack to gigabytes, under an honest name."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    bomb = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(64)) + compressor.flush()
    digest = digest_of(scene, "server")
    scene.assign_new()
    rule = blob_rule(digest, (200, {"content-encoding": "zstd", "etag": f'"{digest}+zstd"'}, bomb))
    scene.assert_refused("decompression_bomb", lambda: scene.mitm.lie(rule))
    scene.assert_recovers()

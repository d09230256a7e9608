"""Payloads over a link that breaks, lies, or is slow."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from device_agent.core.errors import AgentError, InstallError, TransportError, TrustError
from device_agent.ports.downloads import MAX_WINDOW_BYTES, Downloads
from device_agent.ports.hub import Answer, Stream
from device_agent.ports.storage import DiskStorage
from device_agent.settings import Limits
from tests.support.fake_clock import FakeClock

BODY = bytes(range(256)) * 20_000
SHA = hashlib.sha256(BODY).hexdigest()
PACKED = zstandard.compress(BODY)
Reply = tuple[int, dict[str, str], bytes | Iterator[bytes]]


class Blobs:
    """A link that answers with one reply after the other, the last one again and again."""

    def __init__(self, *replies: Callable[[dict[str, str]], Reply]) -> None:
        self.replies, self.asked = list(replies), list[dict[str, str]]()

    def exchange(self, *_arguments: Any, **_more: Any) -> Answer:
        raise AssertionError("payloads are streamed")

    @contextmanager
    def stream(self, _method: str, _path: str, **more: Any) -> Iterator[Stream]:
        reply = self.replies[min(len(self.asked), len(self.replies) - 1)]
        self.asked.append(dict(more["headers"]))
        status, headers, body = reply(more["headers"])
        if isinstance(body, bytes):
            headers = {"content-length": str(len(body))} | headers
            body = iter([body])
        yield Stream(status, headers, body)

    def close(self) -> None:
        return


def identity(body: bytes = BODY) -> Callable[[dict[str, str]], Reply]:
    """An honest server of the plain form, with ranges."""

    def reply(asked: dict[str, str]) -> Reply:
        start = int(asked.get("range", "bytes=0-")[6:-1])
        headers = {"etag": f'"{SHA}"'}
        if not start:
            return 200, headers, body
        return 206, headers | {"content-range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, body[start:]

    return reply


def packed(body: bytes = PACKED) -> Callable[[dict[str, str]], Reply]:
    return lambda _asked: (200, {"etag": f'"{SHA}+zstd"', "content-encoding": "zstd"}, body)


def breaking(body: bytes, headers: dict[str, str]) -> Callable[[dict[str, str]], Reply]:
    """The link breaks after `body`."""

    def pieces() -> Iterator[bytes]:
        yield body
        raise TransportError("The link broke.")

    return lambda _asked: (200, {"content-length": str(len(BODY))} | headers, pieces())


class Desk:
    def __init__(self, folder: Path, **limits: Any) -> None:
        self.folder, self.clock = folder / "downloads", FakeClock()
        self.limits = Limits(**limits)
        self.heed: Callable[[], None] = lambda: None

    def downloads(self, link: Blobs) -> Downloads:
        return Downloads(
            self.folder,
            DiskStorage(),
            link,
            clock=self.clock,
            limits=self.limits,
            uniform=lambda _a, b: b,
            heed=self.heed,
        )

    def fetch(self, link: Blobs) -> bytes:
        return self.downloads(link).read(SHA, len(BODY))

    def refuses(self, link: Blobs, code: str, kind: type[AgentError] = TrustError) -> None:
        with pytest.raises(kind) as caught:
            self.fetch(link)
        assert caught.value.code == code

    @property
    def kept(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.iterdir()}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize("reply", [identity(), packed()])
def test_a_payload_arrives_in_either_form(desk: Desk, reply: Callable[[dict[str, str]], Reply]) -> None:
    assert desk.fetch(Blobs(reply)) == BODY


def test_an_empty_payload(desk: Desk) -> None:
    empty = hashlib.sha256(b"").hexdigest()
    link = Blobs(lambda _asked: (200, {"etag": f'"{empty}"'}, b""))
    assert desk.downloads(link).read(empty, 0) == b""


def test_what_is_there_and_genuine_is_not_fetched_again(desk: Desk) -> None:
    desk.fetch(Blobs(packed()))
    again = Blobs(packed())
    assert desk.fetch(again) == BODY
    assert again.asked == []


def test_what_is_there_and_damaged_is_fetched_again(desk: Desk) -> None:
    desk.fetch(Blobs(identity()))
    file = desk.folder / f"{SHA}.identity"
    file.write_bytes(b"\0" + file.read_bytes()[1:])
    assert desk.fetch(Blobs(identity())) == BODY


def test_a_broken_download_is_resumed_under_its_etag(desk: Desk) -> None:
    link = Blobs(breaking(BODY[:3_000_000], {"etag": f'"{SHA}"'}), identity())
    with pytest.raises(TransportError):
        desk.fetch(link)
    assert desk.kept == {f"{SHA}.identity.part": 3_000_000}
    assert desk.fetch(link) == BODY
    assert link.asked[1] == {"accept-encoding": "identity", "range": "bytes=3000000-", "if-range": f'"{SHA}"'}


def test_bytes_without_the_right_etag_are_not_kept(desk: Desk) -> None:
    with pytest.raises(TransportError):
        desk.fetch(Blobs(breaking(BODY[:3_000_000], {"etag": '"other"'})))
    assert desk.kept == {}


def test_resumed_bytes_are_hashed_again_and_replaced_once(desk: Desk) -> None:
    """Somebody else's bytes, or a torn write, in the older part."""
    link = Blobs(breaking(b"\xff" * 3_000_000, {"etag": f'"{SHA}"'}), identity())
    with pytest.raises(TransportError):
        desk.fetch(link)
    assert desk.fetch(link) == BODY
    assert [asked.get("range") for asked in link.asked] == [None, "bytes=3000000-", None]


def test_a_hub_that_ignores_the_range_sends_all(desk: Desk) -> None:
    link = Blobs(breaking(BODY[:3_000_000], {"etag": f'"{SHA}"'}), packed())
    with pytest.raises(TransportError):
        desk.fetch(link)
    assert desk.fetch(link) == BODY


@pytest.mark.parametrize("span", ["bytes 5-9/10", "", "bytes 0-1/2"])
def test_a_hub_that_resumes_something_else(desk: Desk, span: str) -> None:
    wrong = lambda _asked: (206, {"etag": f'"{SHA}"', "content-range": span}, BODY)  # noqa: E731 - a reply
    link = Blobs(breaking(BODY[:3_000_000], {"etag": f'"{SHA}"'}), wrong)
    with pytest.raises(TransportError):
        desk.fetch(link)
    desk.refuses(link, "resume_failed", TransportError)
    assert desk.kept == {}


def test_a_changed_byte(desk: Desk) -> None:
    desk.refuses(Blobs(identity(b"\0" * 5 + BODY[5:-1] + b"x")), "payload_digest_mismatch")
    assert desk.kept == {}


def test_a_frame_that_is_no_zstd(desk: Desk) -> None:
    desk.refuses(Blobs(packed(b"not zstd")), "payload_digest_mismatch")


def test_a_frame_that_is_cut_off(desk: Desk) -> None:
    desk.refuses(Blobs(packed(PACKED[:-10])), "payload_digest_mismatch")


def test_endless_bytes(desk: Desk) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1 << 20)

    desk.refuses(Blobs(lambda _asked: (200, {"etag": f'"{SHA}"'}, endless())), "payload_too_large")
    assert desk.kept == {}


def test_more_bytes_claimed_than_signed(desk: Desk) -> None:
    claimed = str(len(BODY) + 1)
    desk.refuses(
        Blobs(lambda _asked: (200, {"content-length": claimed}, iter([b""]))),
        "payload_too_large",
    )


def test_a_bomb_is_noticed_before_it_is_unpacked(desk: Desk) -> None:
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    bomb = b"".join(compressor.compress(bytes(1 << 24)) for _ in range(64)) + compressor.flush()
    assert len(bomb) < 200_000
    desk.refuses(Blobs(packed(bomb)), "decompression_bomb")
    assert desk.kept == {}


def test_a_frame_that_wants_too_much_memory(desk: Desk) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=25)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert MAX_WINDOW_BYTES < 1 << 25
    desk.refuses(Blobs(packed(writer.compress(BODY) + writer.flush())), "payload_digest_mismatch")


def test_an_encoding_that_nobody_asked_for(desk: Desk) -> None:
    link = Blobs(lambda _asked: (200, {"content-encoding": "gzip"}, b"x"))
    desk.refuses(link, "answer_malformed", TransportError)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "payload_missing", InstallError),
        (410, "payload_missing", InstallError),
        (403, "http_403", TransportError),
        (429, "http_429", TransportError),
        (503, "http_503", TransportError),
    ],
)
def test_a_hub_that_does_not_give_it(desk: Desk, status: int, code: str, kind: type[AgentError]) -> None:
    desk.refuses(Blobs(lambda _asked: (status, {}, b"")), code, kind)


def dripping(desk: Desk, bytes_each: int, seconds_each: float) -> Callable[[dict[str, str]], Reply]:
    def pieces() -> Iterator[bytes]:
        for start in range(0, len(BODY), bytes_each):
            desk.clock.now_s += seconds_each
            yield BODY[start : start + bytes_each]

    return lambda _asked: (200, {"etag": '"unnamed"'}, pieces())


def test_below_the_least_rate_it_is_given_up_after_so_many_tries(tmp_path: Path) -> None:
    desk = Desk(tmp_path, min_rate_bytes_s=1000, rate_window_s=10.0, attempts=3)
    link = Blobs(dripping(desk, 100, 1.0))
    desk.refuses(link, "payload_too_slow")
    assert len(link.asked) == 3
    assert desk.clock.slept == [1.0, 2.0], "with backoff in between"


def test_at_the_least_rate_it_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, min_rate_bytes_s=1000, rate_window_s=10.0, attempts=1)
    assert desk.fetch(Blobs(dripping(desk, 20_000, 19.0))) == BODY


def test_a_download_that_is_not_wanted_any_more_stops(desk: Desk) -> None:
    class Unwanted(Exception):
        pass

    def stop() -> None:
        raise Unwanted

    desk.heed = stop
    pieces = (BODY[start : start + 65536] for start in range(0, len(BODY), 65536))
    with pytest.raises(Unwanted):
        desk.fetch(Blobs(lambda _asked: (200, {"etag": f'"{SHA}"'}, pieces)))
    assert sum(desk.kept.values()) < len(BODY)


def test_only_what_is_needed_is_kept(desk: Desk) -> None:
    desk.fetch(Blobs(identity()))
    (desk.folder / ("ab" * 32 + ".zstd.part")).write_bytes(b"old")
    downloads = desk.downloads(Blobs(identity()))
    downloads.keep_only(frozenset({SHA}))
    assert list(desk.kept) == [f"{SHA}.identity"]
    downloads.keep_only(frozenset())
    assert desk.kept == {}

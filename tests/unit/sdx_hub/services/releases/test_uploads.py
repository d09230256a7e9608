import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import obstore
import pytest
import zstandard
from sqlalchemy import select
from sqlmodel import col

from firmware_schemas.limits import MAX_PAYLOAD_BYTES
from sdx_hub.adapters.blobs import Encoding
from sdx_hub.adapters.object_store import UNDER_WAY, keys, open_store
from sdx_hub.adapters.storage import Storage
from sdx_hub.domain.access import Principal, Role
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound, TooLarge, TrustError, Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.releases import Upload, UploadPiece
from sdx_hub.services.releases.uploads import UPLOAD_LIFE, Appended, UploadService
from tests.support.s3 import Bucket
from tests.unit.sdx_hub.services.conftest import OPERATOR, PUBLISHER, MovableClock

RAW = b"The same bytes again and again. " * 40_000 + random.Random(7).randbytes(500_000)  # the same in every worker
PACKED = zstandard.compress(RAW)
SHA256 = hashlib.sha256(RAW).hexdigest()


async def stream(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Setup:
    """An upload service as a hub has it, and a look at everything that it leaves behind."""

    def __init__(self, database: Database, clock: MovableClock, folder: Path, bucket: Bucket | None) -> None:
        self.database = database
        self.folder = folder / "uploads"
        self.clock = clock
        self._place = (bucket.url, bucket.key_id, bucket.secret) if bucket else (str(folder / "blobs"), "", "")
        self._store = open_store(*self._place) if bucket else None
        self.restart()

    def restart(self) -> None:
        """Another process, of this replica or of another one: nothing in memory."""
        self.storage = Storage(*self._place, self.folder)
        self.blobs = self.storage.blobs
        self.uploads = UploadService(self.database, self.clock, self.storage)

    async def blob(self, encoding: Encoding = "identity", sha256: str = SHA256) -> bytes:
        size = await self.blobs.stat(sha256, encoding)
        assert size is not None
        return b"".join([piece async for piece in self.blobs.read(sha256, encoding, 0, size)])

    async def begin(self, packed: bytes = PACKED, sha256: str = SHA256, decoded: int = len(RAW)) -> str:
        begun = await self.uploads.begin(PUBLISHER, sha256, len(packed), "zstd", decoded)
        assert not begun.exists
        assert begun.offset == 0
        return begun.id

    async def row(self, identity: str) -> Upload:
        async with self.database.reading() as session:
            return (await session.scalars(select(Upload).where(col(Upload.id) == identity))).one()

    async def audited(self) -> list[tuple[str, str]]:
        async with self.database.reading() as session:
            rows = await session.execute(select(col(AuditEntry.action), col(AuditEntry.subject)))
            return [(action, subject) for action, subject in rows]

    async def named(self) -> list[str]:
        """The pieces that rows speak of."""
        async with self.database.reading() as session:
            names = await session.scalars(select(col(UploadPiece.name)).order_by(col(UploadPiece.offset)))
            return list(names)

    async def left(self) -> list[str]:
        """Every piece and every scratch file that is there."""
        objects = [] if self._store is None else [each["path"] async for each in keys(self._store, UNDER_WAY)]
        return sorted([each.removeprefix(f"{UNDER_WAY}/") for each in objects]) + sorted(
            path.name for path in self.folder.iterdir()
        )

    async def lose(self, name: str) -> None:
        await self.storage.pieces.drop([name])


@pytest.fixture
def hub(request: pytest.FixtureRequest, database: Database, clock: MovableClock, tmp_path: Path) -> Setup:
    """The two ways that a hub is set up: SQLite with a folder, PostgreSQL with S3."""
    bucket = request.getfixturevalue("s3") if database.backend == "postgresql" else None
    return Setup(database, clock, tmp_path, bucket)


async def test_a_compressed_payload_in_pieces_becomes_both_forms(hub: Setup) -> None:
    identity = await hub.begin()
    middle = len(PACKED) // 2
    first = await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:100], PACKED[100:middle]))
    assert (first.offset, first.complete) == (middle, False)
    assert await hub.uploads.status(PUBLISHER, identity) == first
    last = await hub.uploads.append(PUBLISHER, identity, middle, stream(PACKED[middle:]))
    assert (last.offset, last.complete) == (len(PACKED), True)
    assert await hub.blob() == RAW
    assert await hub.blob("zstd") == PACKED
    assert await hub.left() == []
    assert await hub.audited() == [("upload.complete", SHA256)]
    assert (await hub.uploads.begin(PUBLISHER, SHA256, len(PACKED), "zstd", len(RAW))).exists


async def test_an_identity_payload_is_compressed_by_the_hub(hub: Setup) -> None:
    begun = await hub.uploads.begin(PUBLISHER, SHA256, len(RAW), "identity", len(RAW))
    assert (await hub.uploads.append(PUBLISHER, begun.id, 0, stream(RAW))).complete
    assert await hub.blob() == RAW
    packed = await hub.blob("zstd")
    assert len(packed) < len(RAW)
    assert zstandard.decompress(packed) == RAW


async def test_an_empty_payload(hub: Setup) -> None:
    sha256 = hashlib.sha256(b"").hexdigest()
    begun = await hub.uploads.begin(PUBLISHER, sha256, 0, "identity", 0)
    assert (await hub.uploads.append(PUBLISHER, begun.id, 0, stream())).complete
    assert await hub.blob(sha256=sha256) == b""


async def test_the_same_person_continues_and_another_person_begins(hub: Setup) -> None:
    identity = await hub.begin()
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:1000]))
    hub.restart()
    again = await hub.uploads.begin(PUBLISHER, SHA256, len(PACKED), "zstd", len(RAW))
    assert (again.id, again.offset) == (identity, 1000)
    other = Principal("petra", Role.PUBLISHER)
    assert (await hub.uploads.begin(other, SHA256, len(PACKED), "zstd", len(RAW))).id != identity
    with pytest.raises(NotFound) as refused:
        await hub.uploads.append(other, identity, 1000, stream(PACKED[1000:]))
    assert refused.value.code == "upload_not_found"


async def test_compressed_anew_to_another_length_begins_anew(hub: Setup) -> None:
    identity = await hub.begin()
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:1000]))
    begun = await hub.uploads.begin(PUBLISHER, SHA256, len(RAW), "identity", len(RAW))
    assert begun.id != identity
    assert begun.offset == 0
    assert await hub.left() == []
    with pytest.raises(NotFound):
        await hub.uploads.status(PUBLISHER, identity)


async def test_a_wrong_offset_says_where_to_go_on(hub: Setup) -> None:
    identity = await hub.begin()
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:1000]))
    for offset in (0, 999, 1001):
        with pytest.raises(ConflictError) as refused:
            await hub.uploads.append(PUBLISHER, identity, offset, stream(b"x"))
        assert refused.value.code == "offset_mismatch"
        assert refused.value.extra == {"offset": 1000}


async def test_of_two_connections_one_is_sent_to_the_others_offset_and_its_bytes_are_nowhere(hub: Setup) -> None:
    identity = await hub.begin()
    gate, waiting = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"garbage"
        waiting.set()
        await gate.wait()
        yield b"and more"

    late = asyncio.create_task(hub.uploads.append(PUBLISHER, identity, 0, slow()))
    await waiting.wait()
    assert (await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:2000]))).offset == 2000
    gate.set()
    with pytest.raises(ConflictError) as refused:
        await late
    assert refused.value.code == "offset_mismatch"
    assert refused.value.extra == {"offset": 2000}
    assert len(await hub.left()) == 1
    assert (await hub.uploads.append(PUBLISHER, identity, 2000, stream(PACKED[2000:]))).complete
    assert await hub.blob("zstd") == PACKED


async def test_a_late_connection_to_a_complete_upload_leaves_nothing(hub: Setup) -> None:
    identity = await hub.begin()
    gate, waiting = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"garbage"
        waiting.set()
        await gate.wait()

    late = asyncio.create_task(hub.uploads.append(PUBLISHER, identity, 0, slow()))
    await waiting.wait()
    assert (await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED))).complete
    gate.set()
    with pytest.raises(ConflictError):
        await late
    assert await hub.left() == []


async def test_a_broken_stream_keeps_what_arrived(hub: Setup) -> None:
    identity = await hub.begin()

    async def breaks() -> AsyncIterator[bytes]:
        yield PACKED[:500]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await hub.uploads.append(PUBLISHER, identity, 0, breaks())
    assert (await hub.uploads.status(PUBLISHER, identity)).offset == 500
    assert (await hub.uploads.append(PUBLISHER, identity, 500, stream(PACKED[500:]))).complete


async def test_a_piece_is_stored_for_good_before_the_offset_is_committed(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await hub.begin()
    order: list[str] = []
    synced, put, commit = os.fsync, obstore.put_async, hub.database.unit_of_work

    def fsync(handle: int) -> None:
        order.append(Path(f"/proc/self/fd/{handle}").readlink().name.partition("-")[0])
        synced(handle)

    async def put_async(*arguments: Any, **options: Any) -> object:
        done = await put(*arguments, **options)
        order.append("object")
        return done

    def unit_of_work() -> object:
        order.append("transaction")
        return commit()

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(obstore, "put_async", put_async)
    monkeypatch.setattr(hub.database, "unit_of_work", unit_of_work)
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:1000]))
    stored = ["scratch", "uploads"] if hub.database.backend == "sqlite" else ["object"]
    assert order == [*stored, "transaction"]


async def test_more_than_was_announced_is_refused(hub: Setup) -> None:
    identity = await hub.begin()
    with pytest.raises(TooLarge) as refused:
        await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED, b"x"))
    assert refused.value.code == "too_large"
    assert (await hub.uploads.status(PUBLISHER, identity)).offset == 0


@pytest.mark.parametrize(
    ("packed", "decoded", "code"),
    [
        (zstandard.compress(RAW[:-1] + b"!"), len(RAW), "payload_digest_mismatch"),
        (zstandard.compress(RAW[:-1]), len(RAW), "payload_digest_mismatch"),
        (zstandard.compress(bytes(50_000_000)), 100_000, "decompression_bomb"),
        (PACKED[:-4], len(RAW), "bundle_invalid"),
        (PACKED + b"smuggled", len(RAW), "bundle_invalid"),
        (PACKED + zstandard.compress(b""), len(RAW), "bundle_invalid"),
        (b"not zstd at all", len(RAW), "bundle_invalid"),
        (b"\x28\xb5\x2f\xfd", len(RAW), "bundle_invalid"),
        (
            zstandard.ZstdCompressor(
                compression_params=zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
            ).compress(RAW * 20),
            len(RAW) * 20,
            "bundle_invalid",
        ),
    ],
    ids=["other", "shorter", "bomb", "cut", "trailing", "second-frame", "no-zstd", "magic-only", "huge-window"],
)
async def test_content_that_is_not_what_was_said_is_refused_for_good(
    hub: Setup, packed: bytes, decoded: int, code: str
) -> None:
    identity = await hub.begin(packed, decoded=decoded)
    with pytest.raises(TrustError) as refused:
        await hub.uploads.append(PUBLISHER, identity, 0, stream(packed))
    assert refused.value.code == code
    assert await hub.blobs.stat(SHA256, "identity") is None
    assert await hub.blobs.stat(SHA256, "zstd") is None
    assert await hub.left() == []
    assert (await hub.row(identity)).state == "failed"
    assert await hub.audited() == [("upload.refuse", SHA256)]
    assert (await hub.uploads.begin(PUBLISHER, SHA256, len(PACKED), "zstd", len(RAW))).id != identity


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("raw", [RAW, bytes(3_000_000), b"x", b""], ids=["mixed", "zeros", "one", "none"])
async def test_every_ordinary_frame_is_taken(hub: Setup, raw: bytes, checksum: bool) -> None:
    sha256 = hashlib.sha256(raw).hexdigest()
    packed = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=checksum).compress(raw)
    identity = await hub.begin(packed, sha256, len(raw))
    assert (await hub.uploads.append(PUBLISHER, identity, 0, stream(packed))).complete
    assert await hub.blob(sha256=sha256) == raw


async def test_an_identity_payload_with_another_digest_is_refused(hub: Setup) -> None:
    begun = await hub.uploads.begin(PUBLISHER, SHA256, len(RAW), "identity", len(RAW))
    with pytest.raises(TrustError) as refused:
        await hub.uploads.append(PUBLISHER, begun.id, 0, stream(RAW[:-1] + b"!"))
    assert refused.value.code == "payload_digest_mismatch"
    assert await hub.blobs.stat(SHA256, "identity") is None


async def test_killed_between_the_last_piece_and_the_blob_is_finished_by_the_next_request(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await hub.begin()

    async def dies(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(hub.uploads, "_finish", dies)
    with pytest.raises(RuntimeError):
        await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED))
    hub.restart()
    again = await hub.uploads.begin(PUBLISHER, SHA256, len(PACKED), "zstd", len(RAW))
    assert (again.id, again.offset) == (identity, len(PACKED))
    assert (await hub.uploads.append(PUBLISHER, identity, len(PACKED), stream())).complete
    assert await hub.blob() == RAW


async def test_killed_between_the_piece_and_its_row_the_piece_is_sent_again(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await hub.begin()

    def dies() -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(hub.database, "unit_of_work", dies)
    with pytest.raises(RuntimeError):
        await hub.uploads.append(PUBLISHER, identity, 0, stream(b"not the same bytes"))
    monkeypatch.undo()
    hub.restart()
    assert len(await hub.left()) == 1
    assert (await hub.uploads.begin(PUBLISHER, SHA256, len(PACKED), "zstd", len(RAW))).offset == 0
    assert (await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED))).complete
    assert await hub.blob("zstd") == PACKED


async def test_two_hubs_that_finish_the_same_upload_both_say_that_it_is_complete(hub: Setup) -> None:
    identity = await hub.begin()
    here = hub.uploads
    hub.restart()
    there = hub.uploads
    await here.append(PUBLISHER, identity, 0, stream(PACKED[:-1]))
    first, second = await asyncio.gather(
        here.append(PUBLISHER, identity, len(PACKED) - 1, stream(PACKED[-1:])),
        until_complete(there, identity),
    )
    assert first.complete
    assert second.complete
    assert await hub.audited() == [("upload.complete", SHA256)]
    assert await hub.left() == []
    assert await hub.blob("zstd") == PACKED


async def test_a_hub_that_finds_the_pieces_gone_because_another_one_was_faster_says_complete(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await hub.begin()
    here, pieces = hub.uploads, hub.storage.pieces
    real = pieces.add_to

    async def slowly(target: Path, name: str) -> None:
        monkeypatch.undo()
        hub.restart()
        assert (await hub.uploads.append(PUBLISHER, identity, len(PACKED), stream())).complete
        await real(target, name)

    monkeypatch.setattr(pieces, "add_to", slowly)
    assert (await here.append(PUBLISHER, identity, 0, stream(PACKED))).complete
    assert (await hub.row(identity)).offset == len(PACKED)
    assert await hub.audited() == [("upload.complete", SHA256)]


async def until_complete(uploads: UploadService, identity: str) -> Appended:
    while True:
        with suppress(ConflictError):
            return await uploads.append(PUBLISHER, identity, len(PACKED), stream())


async def test_killed_between_the_two_forms_is_finished_by_the_next_request(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await hub.begin()
    real = hub.blobs.put

    async def dies(sha256: str, encoding: Encoding, source: Path) -> None:
        if encoding == "zstd":
            raise RuntimeError("killed")
        await real(sha256, encoding, source)

    monkeypatch.setattr(hub.blobs, "put", dies)
    with pytest.raises(RuntimeError):
        await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED))
    monkeypatch.undo()
    hub.restart()
    assert not (await hub.uploads.begin(PUBLISHER, SHA256, len(PACKED), "zstd", len(RAW))).exists
    assert (await hub.uploads.append(PUBLISHER, identity, len(PACKED), stream())).complete
    assert await hub.blob("zstd") == PACKED


async def test_the_last_piece_again_is_answered_again(hub: Setup) -> None:
    identity = await hub.begin()
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED))
    again = await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED))
    assert (again.offset, again.complete) == (len(PACKED), True)


async def test_a_client_that_goes_away_does_not_stop_the_check_and_one_that_returns_waits_for_it(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = await hub.begin()
    gate, started, runs = asyncio.Event(), asyncio.Event(), 0
    store = hub.uploads._store

    async def slowly(*arguments: object) -> None:
        nonlocal runs
        runs += 1
        started.set()
        await gate.wait()
        await store(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hub.uploads, "_store", slowly)
    first = asyncio.create_task(hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED)))
    await started.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    again = asyncio.create_task(hub.uploads.append(PUBLISHER, identity, len(PACKED), stream()))
    await asyncio.sleep(0.05)
    gate.set()
    assert (await again).complete
    assert runs == 1


async def test_pieces_that_were_lost_are_sent_again_instead_of_storing_holes(hub: Setup) -> None:
    identity = await hub.begin()
    for start in (0, 1000, 2000):
        await hub.uploads.append(PUBLISHER, identity, start, stream(PACKED[start : start + 1000]))
    await hub.lose((await hub.named())[1])
    with pytest.raises(ConflictError) as refused:
        await hub.uploads.append(PUBLISHER, identity, 3000, stream(PACKED[3000:]))
    assert (refused.value.code, refused.value.extra) == ("offset_mismatch", {"offset": 1000})
    assert len(await hub.named()) == 1
    assert (await hub.uploads.append(PUBLISHER, identity, 1000, stream(PACKED[1000:]))).complete
    assert await hub.blob("zstd") == PACKED
    assert await hub.left() == []


async def test_a_store_of_pieces_that_was_lost_altogether(hub: Setup) -> None:
    identity = await hub.begin()
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:1000]))
    await hub.lose((await hub.named())[0])
    with pytest.raises(ConflictError) as refused:
        await hub.uploads.append(PUBLISHER, identity, 1000, stream(PACKED[1000:]))
    assert refused.value.extra == {"offset": 0}
    assert (await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED))).complete


async def test_a_piece_that_is_shorter_than_it_was_is_sent_again(hub: Setup, tmp_path: Path) -> None:
    identity = await hub.begin()
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:1000]))
    name = (await hub.named())[0]
    await hub.lose(name)
    (tmp_path / "shorter").write_bytes(PACKED[:400])
    await hub.storage.pieces.put(name, tmp_path / "shorter")
    with pytest.raises(ConflictError) as refused:
        await hub.uploads.append(PUBLISHER, identity, 1000, stream(PACKED[1000:]))
    assert refused.value.extra == {"offset": 0}


async def test_a_full_disk_says_so_and_loses_nothing(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real error of a real full device."""
    identity = await hub.begin()
    await hub.uploads.append(PUBLISHER, identity, 0, stream(PACKED[:1000]))
    monkeypatch.setattr(hub.storage.scratch, "path", lambda: Path("/dev/full"))
    monkeypatch.setattr(hub.storage.scratch, "remove", lambda *_: None)
    with pytest.raises(Unavailable) as refused:
        await hub.uploads.append(PUBLISHER, identity, 1000, stream(PACKED[1000:]))
    assert refused.value.code == "storage_full"
    monkeypatch.undo()
    assert (await hub.uploads.append(PUBLISHER, identity, 1000, stream(PACKED[1000:]))).complete


@pytest.mark.parametrize(
    ("sha256", "length", "encoding", "decoded", "error", "code"),
    [
        ("../../etc/passwd", 1, "zstd", 1, BadInput, "invalid_sha256"),
        (SHA256.upper(), 1, "zstd", 1, BadInput, "invalid_sha256"),
        (SHA256, 1, "gzip", 1, BadInput, "invalid_encoding"),
        (SHA256, -1, "zstd", 1, BadInput, "invalid_length"),
        (SHA256, 1, "zstd", -1, BadInput, "invalid_length"),
        (SHA256, 1, "identity", 2, BadInput, "invalid_length"),
        (SHA256, 1, "zstd", MAX_PAYLOAD_BYTES + 1, TooLarge, "too_large"),
        (SHA256, 10_000, "zstd", 1, TooLarge, "too_large"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(
    hub: Setup, sha256: str, length: int, encoding: str, decoded: int, error: type[BadInput], code: str
) -> None:
    with pytest.raises(error) as refused:
        await hub.uploads.begin(PUBLISHER, sha256, length, encoding, decoded)
    assert refused.value.code == code


async def test_incompressible_payloads_fit_their_own_bound(hub: Setup) -> None:
    for size in (0, 1, 100, 100_000, 5_000_000):
        raw = os.urandom(size)
        packed = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(raw)
        await hub.begin(packed, hashlib.sha256(raw).hexdigest(), size)


async def test_a_stored_payload_of_another_length_is_not_said_to_exist(hub: Setup) -> None:
    await hub.uploads.append(PUBLISHER, await hub.begin(), 0, stream(PACKED))
    with pytest.raises(TrustError) as refused:
        await hub.uploads.begin(PUBLISHER, SHA256, 10, "zstd", len(RAW) + 1)
    assert refused.value.code == "payload_digest_mismatch"


async def test_only_publishers_upload(hub: Setup) -> None:
    identity = await hub.begin()
    with pytest.raises(NotAllowed):
        await hub.uploads.begin(OPERATOR, SHA256, len(PACKED), "zstd", len(RAW))
    with pytest.raises(NotAllowed):
        await hub.uploads.append(OPERATOR, identity, 0, stream(PACKED))
    with pytest.raises(NotAllowed):
        await hub.uploads.status(OPERATOR, identity)


async def test_one_person_has_a_bounded_number_of_open_uploads(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdx_hub.services.releases.uploads.MAX_OPEN_UPLOADS", 2)
    for content in (b"1", b"2"):
        await hub.uploads.begin(PUBLISHER, hashlib.sha256(content).hexdigest(), 1, "identity", 1)
    with pytest.raises(ConflictError) as refused:
        await hub.begin()
    assert refused.value.code == "too_many_uploads"
    await hub.uploads.begin(PUBLISHER, hashlib.sha256(b"2").hexdigest(), 1, "identity", 1)


async def test_the_hub_keeps_a_manifest_like_a_payload(hub: Setup) -> None:
    assert await hub.uploads.keep(RAW) == SHA256
    assert await hub.blob() == RAW
    assert zstandard.decompress(await hub.blob("zstd")) == RAW
    assert await hub.uploads.keep(RAW) == SHA256
    assert await hub.left() == []


async def test_the_sweep_gives_up_what_is_old_and_leaves_the_rest(hub: Setup, tmp_path: Path) -> None:
    hub.clock.time = datetime.now(UTC)  # What the store says of the age of its objects is real.
    old = await hub.begin()
    await hub.uploads.append(PUBLISHER, old, 0, stream(PACKED[:1000]))
    hub.clock.move(seconds=UPLOAD_LIFE.total_seconds() + 1)
    young = (await hub.uploads.begin(PUBLISHER, hashlib.sha256(b"yo").hexdigest(), 2, "identity", 2)).id
    await hub.uploads.append(PUBLISHER, young, 0, stream(b"y"))
    (tmp_path / "orphan").write_bytes(b"of a slow connection, which a crash ended before it was removed")
    await hub.storage.pieces.put(f"{young}/0-orphan", tmp_path / "orphan")
    crashed, working = hub.folder / "scratch-crashed", hub.folder / "scratch-working"
    crashed.write_bytes(b"half")
    working.write_bytes(b"half")
    for path in hub.folder.iterdir():
        if path != working:
            os.utime(path, (0, 0))
    assert await hub.uploads.sweep() == 1
    kept = [name if hub.database.backend == "postgresql" else name.replace("/", "-") for name in await hub.named()]
    assert len(kept) == 1
    assert kept[0].startswith(young)
    assert await hub.left() == [*kept, "scratch-working"]
    with pytest.raises(NotFound):
        await hub.uploads.append(PUBLISHER, old, 1000, stream(PACKED[1000:]))
    assert (await hub.uploads.append(PUBLISHER, young, 1, stream(b"o"))).complete


async def test_the_sweep_leaves_a_piece_that_is_about_to_be_named(hub: Setup, tmp_path: Path) -> None:
    hub.clock.time = datetime.now(UTC)
    (tmp_path / "piece").write_bytes(b"stored, and its row is on its way")
    await hub.storage.pieces.put("f00/0-abc", tmp_path / "piece")
    hub.clock.move(hours=2)  # As a replica's clock may be wrong.
    await hub.uploads.sweep()
    assert len(await hub.left()) == 1

"""A file that is not what it says, and a place that is not free: refused, and nothing is there afterwards."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from sqlalchemy import inspect, text
from sqlmodel import SQLModel

from sdx_hub import migrations
from sdx_hub.adapters.clock import SystemClock
from sdx_hub.domain.errors import BadInput, ConflictError, HubError, TrustError
from sdx_hub.services import backup
from sdx_hub.services.backup import Place, write_backup
from sdx_hub.services.backup.form import entry_header, padding
from tests.support.postgres import BACKENDS
from tests.unit.sdx_hub.services.backup.places import NOON, Places, fill, restore

Entries = dict[str, bytes]
SHA256 = hashlib.sha256(b"content").hexdigest()
PAYLOAD = f"blobs/{SHA256[:2]}/{SHA256}"
CREATED_AT = [column.name for column in SQLModel.metadata.tables["device"].columns].index("created_at")
DEVICES = "tables/device/00000001.jsonl.zst"


@pytest.fixture
async def good(new_place: Places, tmp_path: Path) -> Path:
    """A whole backup."""
    place = await new_place("sqlite")
    await fill(place)
    source = place.storage.scratch.path()
    source.write_bytes(b"content")
    await place.storage.blobs.put(SHA256, "identity", source)
    (place.data / "hub.toml").write_text("port = 1")
    await write_backup(place, tmp_path / "good", NOON)
    return tmp_path / "good"


def rewritten(file: Path, change: Callable[[Entries], object], *, honest: bool = False) -> Path:
    """The backup with other entries; an `honest` one has an index that says what they are now."""
    with tarfile.open(file) as tar:
        entries = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    change(entries)
    if honest:
        index = json.loads(entries.pop("index.json"))
        index["entries"] = {
            name: {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)} for name, raw in entries.items()
        }
        entries["index.json"] = json.dumps(index).encode()
    bad = file.with_name("bad")
    with bad.open("wb") as out:
        for name, raw in entries.items():
            out.write(entry_header(name, len(raw)) + raw + bytes(padding(len(raw))))
        out.write(bytes(1024))
    return bad


def edit(name: str, change: Callable[[Any], object]) -> Callable[[Entries], object]:
    """A change of a JSON entry."""

    def do(entries: Entries) -> None:
        document = json.loads(entries[name])
        change(document)
        entries[name] = json.dumps(document).encode()

    return do


def rows(change: Callable[[list[Any]], object]) -> Callable[[Entries], object]:
    """A change of the rows of the devices."""

    def do(entries: Entries) -> None:
        lines = [json.loads(line) for line in zstandard.decompress(entries[DEVICES]).splitlines()]
        change(lines)
        entries[DEVICES] = zstandard.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    return do


def rename(old: str, new: str) -> Callable[[Entries], object]:
    return lambda entries: entries.update({new: entries.pop(old), "index.json": entries.pop("index.json")})


def empty_table(header: Any) -> Any:
    return next(table for table in header["tables"] if table["name"] == "proposal")


def without_table(entries: Entries) -> None:
    """Everywhere, so that the file agrees with itself."""
    edit("backup.json", lambda header: header["tables"].remove(empty_table(header)))(entries)
    edit("index.json", lambda index: index["rows"].pop("proposal"))(entries)


def last_first(entries: Entries) -> None:
    header = entries.pop("backup.json")
    entries["backup.json"] = header


DISHONEST: dict[str, Callable[[Entries], object]] = {
    "a byte was changed": lambda entries: entries.update({PAYLOAD: b"contenT"}),
    "a key was changed": lambda entries: entries.update({"online/director-targets.key": b"Private"}),
    "an entry is missing": lambda entries: entries.pop(DEVICES),
    "an entry was added": lambda entries: entries.update({"online/x": b"", "index.json": entries.pop("index.json")}),
    "no index": lambda entries: entries.pop("index.json"),
    "an empty index": lambda entries: entries.update({"index.json": b"{}"}),
    "a broken index": lambda entries: entries.update({"index.json": b"["}),
    "no header": lambda entries: entries.pop("backup.json"),
    "the header is not the first": last_first,
    "something behind the index": lambda entries: entries.update({"online/x": b""}),
}
HONEST: dict[str, Callable[[Entries], object]] = {
    "climbs": rename(PAYLOAD, "online/../../owned"),
    "is absolute": rename(PAYLOAD, "/tmp/owned"),
    "hides": rename(PAYLOAD, "online/.ssh"),
    "a name of its own": rename(PAYLOAD, "owned"),
    "an unknown table": rename(DEVICES, "tables/owned/00000001.jsonl.zst"),
    "another payload": rename(PAYLOAD, f"blobs/{'0' * 2}/{'0' * 64}"),
    "not zstd": lambda entries: entries.update({DEVICES: b"x"}),
    "zstd without a size": lambda entries: entries.update(
        {DEVICES: zstandard.ZstdCompressor(write_content_size=False).compress(b"[]")}
    ),
    "a row is missing": rows(lambda lines: lines.pop()),
    "a row is short": rows(lambda lines: lines[0].pop()),
    "a value of another kind": rows(lambda lines: lines[0].__setitem__(1, "1")),
    "a number over 64 bits": rows(lambda lines: lines[0].__setitem__(1, 2**63)),
    "a time without a zone": rows(lambda lines: lines[0].__setitem__(CREATED_AT, "2026-03-01T12:00:00")),
    "a table is missing": without_table,
    "a column is missing": edit("backup.json", lambda header: empty_table(header)["columns"].pop()),
    "a table of somebody else": edit("backup.json", lambda header: header["tables"][0].update(name="pg_authid")),
    "an unknown kind": edit("backup.json", lambda header: header["tables"][0]["columns"][0].__setitem__(1, "code")),
}


async def nothing_is_there(place: Place) -> None:
    """No table, no key, no settings; a payload that was stored before the rows were refused counts for nothing."""
    async with place.database.writer.connect() as connection:
        assert set(await connection.run_sync(lambda sync: inspect(sync).get_table_names())) <= {"alembic_version"}
        assert not await connection.run_sync(migrations.version_of)
    assert not place.online.exists() or not list(place.online.iterdir())
    assert not (place.data / "hub.toml").exists()
    assert not list((place.data / "uploads").iterdir())
    assert not list(place.data.parent.rglob("*owned*"))


@pytest.mark.parametrize("name", DISHONEST)
async def test_a_file_that_its_index_does_not_describe(new_place: Places, good: Path, name: str) -> None:
    place = await new_place("sqlite")
    with pytest.raises(TrustError) as refused:
        await restore(rewritten(good, DISHONEST[name]), place)
    assert refused.value.code == "backup_damaged"
    await nothing_is_there(place)
    assert not list((place.data / "blobs").iterdir())


@pytest.mark.parametrize("name", HONEST)
async def test_a_file_that_describes_what_no_hub_writes(new_place: Places, good: Path, name: str) -> None:
    place = await new_place("sqlite")
    with pytest.raises(TrustError) as refused:
        await restore(rewritten(good, HONEST[name], honest=True), place)
    assert refused.value.code == "backup_damaged"
    await nothing_is_there(place)


async def test_a_decompression_bomb_is_not_unpacked(new_place: Places, good: Path) -> None:
    bomb = zstandard.compress(bytes(300 * 1024**2))
    with pytest.raises(TrustError, match="too large") as refused:
        file = rewritten(good, lambda entries: entries.update({DEVICES: bomb}), honest=True)
        await restore(file, await new_place("sqlite"))
    assert refused.value.code == "backup_damaged"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "change",
    [
        rows(lambda lines: lines[0].__setitem__(5, "flying")),  # A state that no device has.
        rows(lambda lines: lines[0].__setitem__(0, None)),
        rows(lambda lines: lines[1].__setitem__(0, lines[0][0])),
    ],
    ids=["a check", "a null", "a key twice"],
)
async def test_rows_that_the_database_refuses(
    new_place: Places, good: Path, backend: str, change: Callable[[Entries], object]
) -> None:
    place = await new_place(backend)
    with pytest.raises(ConflictError, match="rows of device") as refused:
        await restore(rewritten(good, change, honest=True), place)
    assert refused.value.code == "rows_refused"
    await nothing_is_there(place)
    await restore(good, place)


@pytest.mark.parametrize("keep", [0, 100, 512, 1000, 0.5, -1, -1023])
async def test_a_file_that_was_cut_off(new_place: Places, good: Path, keep: float) -> None:
    place = await new_place("sqlite")
    raw = good.read_bytes()
    good.write_bytes(raw[: int(len(raw) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(TrustError) as refused:
        await restore(good, place)
    assert refused.value.code == "backup_damaged"
    await nothing_is_there(place)


async def test_every_flipped_byte_is_seen(good: Path) -> None:
    """Of contents, headers and padding alike."""
    raw = bytearray(good.read_bytes())
    for position in range(0, len(raw), 97):
        raw[position] ^= 1
        good.write_bytes(raw)
        with pytest.raises((TrustError, BadInput)), backup.opened(good):
            pass
        raw[position] ^= 1


@pytest.mark.parametrize(
    "fields",
    [{"name": f"online/{'a' * 60}/{'b' * 80}"}, {"size": -1}, {"type": tarfile.SYMTYPE}, {"mode": 0o777}, {"uid": 1}],
    ids=str,
)
async def test_entries_that_are_no_plain_files(good: Path, fields: dict[str, Any]) -> None:
    entry = tarfile.TarInfo("online/x")
    entry.mode = 0o600
    for name, value in fields.items():
        setattr(entry, name, value)
    block = entry.tobuf(tarfile.USTAR_FORMAT if "name" in fields else tarfile.GNU_FORMAT)
    raw = good.read_bytes()
    second = raw.index(b"tables/")
    good.write_bytes(raw[:second] + block + raw[second:])
    with pytest.raises(TrustError) as refused, backup.opened(good):
        pass
    assert refused.value.code == "backup_damaged"


@pytest.mark.parametrize(
    "change", [lambda header: header.update(form=2, surprise=1), lambda header: header.update(schema="9999")]
)
async def test_a_newer_programs_file(new_place: Places, good: Path, change: Callable[[Any], object]) -> None:
    place = await new_place("sqlite")
    with pytest.raises(BadInput, match="newer sdx") as refused:
        await restore(rewritten(good, edit("backup.json", change), honest=True), place)
    assert refused.value.code == "backup_newer"
    await nothing_is_there(place)


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_database_with_a_hub_is_left_alone(new_place: Places, good: Path, backend: str) -> None:
    place = await new_place(backend)
    await migrations.upgrade(place.database)
    async with place.database.writer.begin() as connection:
        await connection.execute(text("INSERT INTO counter (name, value) VALUES ('theirs', 1)"))
    with pytest.raises(ConflictError) as refused:
        await restore(good, place)
    assert refused.value.code == "database_not_empty"
    async with place.database.reading() as session:
        assert (await session.execute(text("SELECT name FROM counter"))).all() == [("theirs",)]
    assert not list((place.data / "blobs").iterdir())


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_database_with_a_table_of_somebody_elses(new_place: Places, good: Path, backend: str) -> None:
    place = await new_place(backend)
    async with place.database.writer.begin() as connection:
        await connection.execute(text("CREATE TABLE device (id INTEGER)"))
    with pytest.raises(ConflictError) as refused:
        await restore(good, place)
    assert refused.value.code == "database_not_empty"


@pytest.mark.parametrize("backend", BACKENDS)
async def test_tables_without_rows_are_no_hub(new_place: Places, good: Path, backend: str) -> None:
    """A hub that was started too early has made them."""
    place = await new_place(backend)
    await migrations.upgrade(place.database)
    assert (await restore(good, place)).rows


@pytest.mark.parametrize("there", ["data/notes", "online/other.key", "online/director-targets.key"])
async def test_folders_with_something_else(new_place: Places, good: Path, there: str) -> None:
    place = await new_place("sqlite")
    path = place.data / there.removeprefix("data/")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"theirs")
    with pytest.raises(ConflictError) as refused:
        await restore(good, place)
    assert refused.value.code == "folder_not_empty"
    assert path.read_bytes() == b"theirs"


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("backend", BACKENDS)
async def test_an_interrupted_restore_counts_for_nothing_and_is_repeated(
    new_place: Places, good: Path, backend: str
) -> None:
    """Stopped at each of its steps."""
    place = await new_place(backend)
    for step in range(1, 100):
        left = step

        def stop(_: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Interrupted

        with backup.opened(good) as checked:
            backup.require_free(place.data, place.online, checked)
            try:
                await backup.read_backup(checked, place, SystemClock(), stop)
            except Interrupted:
                await nothing_is_there(place)
            else:
                break
    assert 5 < step < 99
    assert (place.online / "director-targets.key").read_bytes() == b"private"


async def test_what_a_killed_restore_left_is_accepted(new_place: Places, good: Path) -> None:
    place = await new_place("sqlite")
    place.online.mkdir()
    (place.online / "director-targets.key").write_bytes(b"private")
    (place.online / ".restoring-other.key").write_bytes(b"pri")
    (place.data / "hub.toml").write_text("port = 1")
    (place.data / "uploads" / "scratch-1").write_bytes(b"x")
    assert (await restore(good, place)).settings == str(place.data / "hub.toml")


async def test_a_file_that_changes_while_it_is_restored(new_place: Places, good: Path) -> None:
    place = await new_place("sqlite")
    with backup.opened(good) as checked:
        raw = good.read_bytes()
        good.write_bytes(raw.replace(b"private", b"PRIVATE"))
        with pytest.raises(TrustError, match="has changed") as refused:
            await backup.read_backup(checked, place, SystemClock())
    assert isinstance(refused.value, HubError)
    assert refused.value.code == "backup_damaged"
    await nothing_is_there(place)

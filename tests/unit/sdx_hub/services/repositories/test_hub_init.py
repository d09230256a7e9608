"""A hub takes over a ceremony whole, once, or not at all."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from tuf.api.metadata import Metadata, Root, Snapshot, Timestamp

from sdx_hub.domain.errors import BadInput, ConflictError, HubError, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.trust import MetadataFile, OnlineKey
from sdx_hub.services.repositories.hub_init import add_online_key, import_ceremony
from sdx_hub.services.repositories.metadata_store import sha256
from tests.support.people import People, hold_ceremony, sign
from tests.unit.sdx_hub.services.conftest import MovableClock


@pytest.fixture
def people(tmp_path: Path, clock: MovableClock) -> People:
    return hold_ceremony(tmp_path / "ceremony", clock.now(), "nav")


async def stored(database: Database) -> dict[str, bytes]:
    async with database.reading() as session:
        rows = await session.scalars(select(MetadataFile))
        return {f"{row.repository}/{row.version}.{row.role}": row.raw for row in rows}


async def test_everything_is_taken_over_byte_for_byte(
    tmp_path: Path, database: Database, clock: MovableClock, people: People
) -> None:
    made = await import_ceremony(database, clock, people.folder, tmp_path / "data" / "online")
    files = await stored(database)
    for name in ("image/1.root", "image/1.targets", "image/1.team-nav", "image/1.fleet-config", "director/1.root"):
        assert files[name] == (people.folder / f"{name}.json").read_bytes()
    assert made.image_root_sha256 == sha256((people.folder / "image/1.root.json").read_bytes())
    assert made.director_root_sha256 == sha256((people.folder / "director/1.root.json").read_bytes())

    root = Metadata[Root].from_bytes(files["image/1.root"]).signed
    snapshot = Metadata[Snapshot].from_bytes(files["image/1.snapshot"])
    timestamp = Metadata[Timestamp].from_bytes(files["image/1.timestamp"])
    root.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
    root.verify_delegate("timestamp", timestamp.signed_bytes, timestamp.signatures)
    assert set(snapshot.signed.meta) == {"targets.json", "team-nav.json", "fleet-config.json"}
    for name, listed in snapshot.signed.meta.items():
        raw = files[f"image/1.{name.removesuffix('.json')}"]
        assert listed.length == len(raw)
        assert listed.hashes == {"sha256": sha256(raw)}
    timestamp.signed.snapshot_meta.verify_length_and_hashes(files["image/1.snapshot"])


async def test_online_keys_are_the_hubs_alone(
    tmp_path: Path, database: Database, clock: MovableClock, people: People
) -> None:
    await import_ceremony(database, clock, people.folder, tmp_path / "data" / "online")
    folder = tmp_path / "data" / "online"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    copied = {path.name: path for path in folder.iterdir()}
    assert len(copied) == 5
    for name, path in copied.items():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == (people.folder / "online" / name).read_bytes()
    async with database.reading() as session:
        rows = list(await session.scalars(select(OnlineKey)))
    assert {f"{row.repository}/{row.role}" for row in rows} == set(
        json.loads((people.folder / "online" / "signers.json").read_text())
    )
    assert not [row for row in rows if "PRIVATE" in row.key + row.uri]


async def test_a_second_time_is_refused(
    tmp_path: Path, database: Database, clock: MovableClock, people: People
) -> None:
    await import_ceremony(database, clock, people.folder, tmp_path / "data" / "online")
    before = await stored(database)
    other = hold_ceremony(tmp_path / "other", clock.now(), "nav")
    with pytest.raises(ConflictError) as refused:
        await import_ceremony(database, clock, other.folder, tmp_path / "data" / "online")
    assert refused.value.code == "hub_initialised"
    assert await stored(database) == before


async def test_an_interrupted_first_time_can_be_repeated(
    tmp_path: Path, database: Database, clock: MovableClock, people: People
) -> None:
    """A key was copied, then the power went: the same ceremony goes through, another one's keys are not mixed in."""
    online = tmp_path / "data" / "online"
    online.mkdir(parents=True)
    (online / "image-snapshot.key").write_bytes((people.folder / "online" / "image-snapshot.key").read_bytes())
    other = hold_ceremony(tmp_path / "other", clock.now(), "nav")
    with pytest.raises(ConflictError) as refused:
        await import_ceremony(database, clock, other.folder, tmp_path / "data" / "online")
    assert refused.value.code == "key_exists"
    assert not await stored(database)
    await import_ceremony(database, clock, people.folder, tmp_path / "data" / "online")


def drop_signature(people: People, name: str) -> None:
    path = people.folder / name
    metadata = Metadata[Any].from_file(str(path))
    metadata.signatures.pop(next(iter(metadata.signatures)))
    path.write_bytes(metadata.to_bytes())


def publish_in_advance(people: People) -> None:
    path = people.folder / "image/1.team-nav.json"
    metadata = Metadata[Any].from_file(str(path))
    from tuf.api.metadata import TargetFile

    metadata.signed.targets["nav/a/1.0.0/x"] = TargetFile(1, {"sha256": "00" * 32}, "nav/a/1.0.0/x")
    metadata.signatures.clear()
    path.write_bytes(sign(metadata, people["team-nav"][:2]))


def swap_online_key(people: People) -> None:
    (people.folder / "online/image-timestamp.key").write_bytes(
        (people.folder / "online/image-snapshot.key").read_bytes()
    )


def climb(people: People) -> None:
    path = people.folder / "online/signers.json"
    path.write_text(path.read_text().replace("file2:image-snapshot.key", "file2:../online/image-snapshot.key"))


@pytest.mark.parametrize(
    ("spoil", "error", "code"),
    [
        (lambda people: drop_signature(people, "image/1.root.json"), TrustError, "below_threshold"),
        (lambda people: drop_signature(people, "image/1.targets.json"), TrustError, "below_threshold"),
        (lambda people: drop_signature(people, "image/1.team-nav.json"), TrustError, "below_threshold"),
        (lambda people: drop_signature(people, "director/1.root.json"), TrustError, "below_threshold"),
        (lambda people: (people.folder / "image/1.fleet-config.json").unlink(), BadInput, "ceremony_incomplete"),
        (lambda people: (people.folder / "online/signers.json").write_text("[]"), BadInput, "ceremony_incomplete"),
        (lambda people: (people.folder / "online/signers.json").write_text("{}"), ConflictError, "online_key_missing"),
        (publish_in_advance, TrustError, "targets_changed"),
        (swap_online_key, HubError, "online_key_unreadable"),
        (climb, BadInput, "online_key_uri"),
    ],
)
async def test_a_ceremony_that_does_not_hold_is_refused(
    tmp_path: Path,
    database: Database,
    clock: MovableClock,
    people: People,
    spoil: Callable[[People], object],
    error: type[HubError],
    code: str,
) -> None:
    spoil(people)
    with pytest.raises(error) as refused:
        await import_ceremony(database, clock, people.folder, tmp_path / "data" / "online")
    assert refused.value.code == code
    assert not await stored(database)
    assert not (tmp_path / "data").exists()
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(AuditEntry)) == 0


async def test_a_new_online_key_waits_for_a_root(
    tmp_path: Path, database: Database, clock: MovableClock, people: People
) -> None:
    with pytest.raises(ConflictError) as refused:
        await add_online_key(database, tmp_path / "data" / "online", "image", "snapshot")
    assert refused.value.code == "hub_not_initialised"
    await import_ceremony(database, clock, people.folder, tmp_path / "data" / "online")
    public = await add_online_key(database, tmp_path / "data" / "online", "image", "snapshot")
    assert public.owner == "hub"
    assert len(list((tmp_path / "data/online").glob("*.key"))) == 6
    with pytest.raises(BadInput) as unknown:
        await add_online_key(database, tmp_path / "data" / "online", "image", "root")
    assert unknown.value.code == "role_unknown"

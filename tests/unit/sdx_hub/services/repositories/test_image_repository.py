"""The image repository: what is served, who may change it, and that every change is made once."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlmodel import col
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from firmware_schemas.limits import MAX_TARGETS_BYTES
from sdx_hub.domain.errors import ConflictError, NotFound, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.trust import MetadataFile
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.services.repositories.metadata_store import sha256
from sdx_hub.trust import rotation
from sdx_hub.trust.online import Lives, OnlineSigners
from tests.support.people import sign
from tests.support.trust_hub import TrustHub, refresh_client, start_trust_hub
from tests.unit.sdx_hub.services.conftest import MovableClock

PATH = "nav/mavsdk/1.0.0/release.json"


@pytest.fixture
async def hub(tmp_path: Path, database: Database, clock: MovableClock) -> TrustHub:
    return await start_trust_hub(database, clock, tmp_path, "nav", "pay")


def target(path: str = PATH, content: bytes = b"{}") -> TargetFile:
    return TargetFile(len(content), {"sha256": sha256(content)}, path)


async def next_team(hub: TrustHub, *paths: str) -> Metadata[Targets]:
    """The next metadata of team nav with more targets, unsigned."""
    following = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    following.signed.targets |= {path: target(path) for path in paths}
    return following


async def publish(hub: TrustHub, *paths: str, signatures: int = 2) -> None:
    metadata = await next_team(hub, *paths)
    hub.people.sign(metadata, "team-nav", signatures)
    await add(hub, metadata)


async def add(worker: TrustHub, metadata: Metadata[Targets]) -> None:
    async with worker.database.unit_of_work() as uow:
        await worker.image.add_team_version(uow, "team-nav", metadata)
        await uow.commit()


async def count(hub: TrustHub, role: str) -> int:
    async with hub.database.reading() as session:
        rows = select(func.count()).where(col(MetadataFile.repository) == "image", col(MetadataFile.role) == role)
        return await session.scalar(rows) or 0


async def test_a_plain_tuf_client_follows_from_the_root_alone(
    tmp_path: Path, database: Database, clock: MovableClock
) -> None:
    clock.time = datetime.now(UTC)  # The client asks the system's clock.
    hub = await start_trust_hub(database, clock, tmp_path, "nav")
    first = await hub.image.file("1.root.json")
    _, found = await refresh_client(hub, tmp_path / "client", first, PATH)
    assert found is None
    await publish(hub, PATH)
    _, found = await refresh_client(hub, tmp_path / "client", first, PATH)
    assert found.hashes == {"sha256": sha256(b"{}")}


async def test_the_snapshot_binds_every_role_and_the_timestamp_binds_the_snapshot(hub: TrustHub) -> None:
    await publish(hub, PATH)
    snapshot = await hub.signed("snapshot")
    assert {name: listed.version for name, listed in snapshot.meta.items()} == {
        "targets.json": 1,
        "team-nav.json": 2,
        "team-pay.json": 1,
        "fleet-config.json": 1,
    }
    for name, listed in snapshot.meta.items():
        raw = await hub.image.file(f"{listed.version}.{name}")
        assert listed.length == len(raw)
        assert listed.hashes == {"sha256": sha256(raw)}
    timestamp = await hub.signed("timestamp")
    timestamp.snapshot_meta.verify_length_and_hashes(await hub.image.file(f"{snapshot.version}.snapshot.json"))


@pytest.mark.parametrize(
    "name",
    ["1.timestamp.json", "0.root.json", "01.root.json", "2.root.json", "root.json", "1.nobody.json", "../1.root.json"],
)
async def test_other_names_are_not_found(hub: TrustHub, name: str) -> None:
    with pytest.raises(NotFound) as refused:
        await hub.image.file(name)
    assert refused.value.code == "metadata_not_found"


async def test_a_hub_without_roots_says_what_to_do(tmp_path: Path, database: Database, clock: MovableClock) -> None:
    image = ImageRepository(database, clock, OnlineSigners(tmp_path), Lives())
    with pytest.raises(ConflictError, match="sdx hub init") as refused:
        await image.load()
    assert refused.value.code == "hub_not_initialised"


async def test_team_metadata_below_its_threshold_is_refused(hub: TrustHub) -> None:
    with pytest.raises(TrustError) as refused:
        await publish(hub, PATH, signatures=1)
    assert refused.value.code == "below_threshold"
    assert refused.value.extra["missing"] == ["team-nav-2", "team-nav-3"]
    assert await count(hub, "team-nav") == 1
    assert (await hub.signed("timestamp")).version == 1


async def test_another_teams_people_and_paths_are_refused(hub: TrustHub) -> None:
    metadata = await next_team(hub, PATH)
    sign(metadata, hub.people["team-pay"])
    with pytest.raises(TrustError) as refused:
        async with hub.database.unit_of_work() as uow:
            await hub.image.add_team_version(uow, "team-nav", metadata)
    assert refused.value.code == "below_threshold"
    with pytest.raises(TrustError) as outside:
        await publish(hub, "pay/camera/1.0.0/release.json")
    assert outside.value.code == "targets_changed"


async def test_metadata_that_no_client_would_read_is_refused(hub: TrustHub) -> None:
    """A team that outgrew the bound learns it here, and not from its devices."""
    metadata = await next_team(hub, PATH)
    metadata.signed.targets[PATH].unrecognized_fields["custom"] = {"notes": "x" * MAX_TARGETS_BYTES}
    hub.people.sign(metadata, "team-nav")
    with pytest.raises(TrustError) as refused:
        async with hub.database.unit_of_work() as uow:
            await hub.image.add_team_version(uow, "team-nav", metadata)
    assert refused.value.code == "metadata_invalid"


async def test_a_caller_that_rolls_back_leaves_nothing(hub: TrustHub) -> None:
    metadata = await next_team(hub, PATH)
    hub.people.sign(metadata, "team-nav")
    async with hub.database.unit_of_work() as uow:
        await hub.image.add_team_version(uow, "team-nav", metadata)
    assert (await hub.targets("team-nav")).version == 1
    assert (await hub.signed("snapshot")).version == 1


async def test_of_two_workers_one_makes_the_version(database_url: str, hub: TrustHub, clock: MovableClock) -> None:
    second = await Database.open(database_url, clock)
    other = await hub.another_worker(second)
    try:
        one, two = await next_team(hub, PATH), await next_team(hub, PATH.replace("1.0.0", "2.0.0"))
        for metadata in (one, two):
            hub.people.sign(metadata, "team-nav")
        results = await asyncio.gather(add(hub, one), add(other, two), return_exceptions=True)
        refused = [result for result in results if result is not None]
        assert [getattr(error, "code", error) for error in refused] == ["metadata_outdated"]
        assert (await hub.targets("team-nav")).version == 2
        # What one worker made, the other serves at its next request: no device may see half of a release.
        assert await other.image.file("timestamp.json") == await hub.image.file("timestamp.json")
        assert (await other.targets("team-nav")).version == 2
    finally:
        await second.close()


async def test_a_timestamp_is_renewed_after_a_quarter_of_its_life(hub: TrustHub, clock: MovableClock) -> None:
    clock.move(hours=5, minutes=59)
    assert not await hub.image.resign_if_due()
    clock.move(minutes=1)
    assert await hub.image.resign_if_due()
    timestamp, snapshot = await hub.signed("timestamp"), await hub.signed("snapshot")
    assert (timestamp.version, snapshot.version) == (2, 1)
    assert timestamp.expires == clock.now() + timedelta(days=1)
    assert timestamp.snapshot_meta.version == 1
    clock.move(days=1, hours=12)
    assert await hub.image.resign_if_due()
    timestamp, snapshot = await hub.signed("timestamp"), await hub.signed("snapshot")
    assert (timestamp.version, snapshot.version) == (3, 2)
    assert snapshot.expires == clock.now() + timedelta(days=7)


async def test_reading_the_timestamp_renews_it_too(hub: TrustHub, clock: MovableClock) -> None:
    """A worker whose loop stands still does not serve what has expired."""
    clock.move(days=30)
    timestamp = Metadata[Any].from_bytes(await hub.image.file("timestamp.json")).signed
    assert timestamp.expires == clock.now() + timedelta(days=1)
    assert (await hub.signed("snapshot")).expires == clock.now() + timedelta(days=7)


async def test_several_workers_renew_once(database_url: str, hub: TrustHub, clock: MovableClock) -> None:
    second = await Database.open(database_url, clock)
    other = await hub.another_worker(second)
    try:
        clock.move(hours=7)
        results = await asyncio.gather(*(worker.image.resign_if_due() for worker in (hub, other, hub, other)))
        assert sorted(results) == [False, False, False, True]
        assert (await other.signed("timestamp")).version == 2
    finally:
        await second.close()


async def test_a_key_that_is_away_does_not_stop_reading(hub: TrustHub, clock: MovableClock) -> None:
    worker = await hub.another_worker()
    (hub.data / "online" / "image-timestamp.key").rename(hub.data / "away.key")
    fresh = ImageRepository(hub.database, clock, OnlineSigners(hub.data / "online"), Lives())
    await fresh.load()
    before = await worker.image.file("timestamp.json")
    clock.move(hours=7)
    assert await fresh.file("timestamp.json") == before


async def test_what_the_hub_signed_is_forgotten_and_what_people_signed_is_not(
    hub: TrustHub, clock: MovableClock
) -> None:
    for number in range(6):
        await publish(hub, PATH.replace("1.0.0", f"1.0.{number}"))
        clock.move(hours=1)
    assert await count(hub, "team-nav") == 7
    # A client in the middle of its work still finds what its timestamp named.
    assert await count(hub, "snapshot") == 7
    clock.move(days=8)
    await publish(hub, "nav/mavsdk/2.0.0/release.json")
    assert await count(hub, "snapshot") == 2
    assert await count(hub, "timestamp") == 2
    assert await count(hub, "team-nav") == 8


async def test_signatures_are_checked_by_the_root_of_today(hub: TrustHub) -> None:
    """The snapshot and the timestamp of every version are what a client of that version accepts."""
    await publish(hub, PATH)
    root = Metadata[Root].from_bytes(await hub.image.file("1.root.json")).signed
    for role in ("snapshot", "timestamp"):
        metadata = Metadata[Any].from_bytes(await hub.image.newest(role))
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        metadata.signed.version += 1
        with pytest.raises(UnsignedMetadataError):
            root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)

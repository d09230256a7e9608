"""The director: what one device is told, when it is signed anew, and who else cannot read it wrong."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlmodel import col
from tuf.api.metadata import Metadata, Root

from firmware_schemas.device_api import ACTION_FIELD, DEVICE_FIELD, TIME_FIELD
from firmware_schemas.ids import DeviceId
from firmware_schemas.release import Component, Document, ReleaseManifest, encode_manifest, targets_of
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Product, Release
from sdx_hub.persistence.tables.trust import DirectorDocument
from sdx_hub.services.repositories.hub_init import add_online_key
from sdx_hub.services.repositories.metadata_store import sha256
from sdx_hub.services.repositories.roots import TrustRoots
from sdx_hub.trust import rotation
from sdx_hub.trust.rotation import KeyChange
from tests.support.people import Person
from tests.support.trust_hub import TrustHub, start_trust_hub
from tests.unit.sdx_hub.services.conftest import APPROVER, PUBLISHER, MovableClock

DEVICE = DeviceId("d-" + "1" * 20)
OTHER = DeviceId("d-" + "2" * 20)


def manifest_of(product: str, version: str = "1.0.0") -> ReleaseManifest:
    """Two boards, of which each gets its own firmware; a payload for both; and an SBOM for people."""
    return ReleaseManifest(
        product=product,
        version=version,
        release_counter=1,
        hardware=("rpi-cm4", "rpi-5"),
        components=(
            Component("server", "directory", "aa" * 32, 10),
            Component("boot-cm4", "file", "bb" * 32, 20, hardware=("rpi-cm4",)),
            Component("boot-5", "file", "cc" * 32, 30, hardware=("rpi-5",)),
        ),
        documents=(Document("sbom", "dd" * 32, 40),),
        sbom="sbom",
    )


@pytest.fixture
async def hub(tmp_path: Path, database: Database, clock: MovableClock) -> TrustHub:
    hub = await start_trust_hub(database, clock, tmp_path, "nav")
    async with database.unit_of_work() as uow:
        for number, (device, hardware) in enumerate([(DEVICE, "rpi-cm4"), (OTHER, "rpi-5")], 1):
            uow.session.add(
                Device(
                    id=device,
                    number=number,
                    serial=f"SN-{number}",
                    device_key=str(number) * 64,
                    hardware=hardware,
                    state="accepted",
                    token_sha256=str(number) * 64,
                    change_seq=number,
                    created_at=clock.now(),
                )
            )
        for product in ("mavsdk", "params"):
            uow.session.add(Product(name=product, team_role="team-nav"))
            await uow.session.flush()
            uow.session.add(
                Release(
                    id=f"{product}@1.0.0",
                    product=product,
                    version="1.0.0",
                    team_role="team-nav",
                    release_counter=1,
                    revert_counter=1,
                    manifest=encode_manifest(manifest_of(product)),
                    state="published",
                    created_by="paul",
                    created_at=clock.now(),
                )
            )
        await uow.commit()
    return hub


async def assign(hub: TrustHub, device: str, *products: str) -> None:
    async with hub.database.unit_of_work() as uow:
        now = hub.clock.now()
        for product in products:
            uow.session.add(
                Assignment(device_id=device, product=product, release_id=f"{product}@1.0.0", assigned_at=now)
            )
        await uow.session.execute(
            update(Device)
            .where(col(Device.id) == device)
            .values(desired_version=col(Device.desired_version) + 1, has_assignment=True)
        )
        await uow.commit()


async def fetch(
    hub: TrustHub, device: DeviceId = DEVICE, root: Root | None = None, timestamp: bytes = b""
) -> dict[str, Metadata[Any]]:
    """What a device fetches, each file verified by the root and bound by the one before it."""
    root = root or await hub.root("director")
    raw = {"timestamp": timestamp or await hub.director.file(device, "timestamp.json")}
    version = Metadata[Any].from_bytes(raw["timestamp"]).signed.version
    for role in ("snapshot", "targets"):
        raw[role] = await hub.director.file(device, f"{version}.{role}.json")
    found = {role: Metadata[Any].from_bytes(content) for role, content in raw.items()}
    for role, metadata in found.items():
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        assert metadata.signed.version == version
    found["timestamp"].signed.snapshot_meta.verify_length_and_hashes(raw["snapshot"])
    found["snapshot"].signed.meta["targets.json"].verify_length_and_hashes(raw["targets"])
    assert b"\n" not in raw["targets"]
    return found


async def versions(hub: TrustHub, device: str = DEVICE) -> list[int]:
    async with hub.database.reading() as session:
        rows = select(col(DirectorDocument.version)).where(col(DirectorDocument.device_id) == device)
        return sorted(await session.scalars(rows))


async def test_nothing_assigned_is_said_too(hub: TrustHub, clock: MovableClock) -> None:
    found = await fetch(hub)
    assert found["targets"].signed.targets == {}
    assert found["targets"].signed.unrecognized_fields == {DEVICE_FIELD: DEVICE, ACTION_FIELD: ""}
    assert found["timestamp"].signed.unrecognized_fields == {TIME_FIELD: int(clock.now().timestamp())}
    assert found["timestamp"].signed.expires == clock.now() + timedelta(days=1)
    assert found["targets"].signed.delegations is None


async def test_a_device_gets_every_component_that_fits_its_hardware(hub: TrustHub) -> None:
    await assign(hub, DEVICE, "mavsdk", "params")
    await assign(hub, OTHER, "mavsdk")
    mine, theirs = await fetch(hub), await fetch(hub, OTHER)
    assert set(mine["targets"].signed.targets) == {
        f"nav/{product}/1.0.0/{name}"
        for product in ("mavsdk", "params")
        for name in ("release.json", "server", "boot-cm4")
    }
    assert set(theirs["targets"].signed.targets) == {
        f"nav/mavsdk/1.0.0/{name}" for name in ("release.json", "server", "boot-5")
    }
    assert mine["targets"].signed.unrecognized_fields == {DEVICE_FIELD: DEVICE, ACTION_FIELD: f"{DEVICE}.1"}
    assert theirs["targets"].signed.unrecognized_fields == {DEVICE_FIELD: OTHER, ACTION_FIELD: f"{OTHER}.1"}
    for listed in targets_of("nav", manifest_of("mavsdk")):
        said = mine["targets"].signed.targets.get(listed.path)
        if said is not None:
            assert said.length == listed.length
            assert said.hashes == {"sha256": listed.sha256}
            assert said.custom["release_counter"] == 1


async def test_it_is_signed_when_the_desired_state_changed(hub: TrustHub) -> None:
    await fetch(hub)
    await fetch(hub)
    assert await versions(hub) == [1]
    await assign(hub, DEVICE, "mavsdk")
    found = await fetch(hub)
    assert found["timestamp"].signed.version == 2
    assert found["targets"].signed.targets
    assert await versions(hub) == [1, 2]


async def test_it_is_signed_at_half_of_its_life(hub: TrustHub, clock: MovableClock) -> None:
    first = await fetch(hub)
    clock.move(hours=11, minutes=59)
    assert (await fetch(hub))["timestamp"].signed == first["timestamp"].signed
    clock.move(minutes=1)
    second = await fetch(hub)
    assert second["timestamp"].signed.version == 2
    assert second["targets"].signed.expires == clock.now() + timedelta(days=1)


async def test_a_document_of_a_shorter_life_is_not_served_expired(hub: TrustHub, clock: MovableClock) -> None:
    """The setting was six seconds yesterday and is a day now: what was signed yesterday ended after six seconds."""
    hub.director._writer._life = timedelta(seconds=6)
    await fetch(hub)
    worker = await hub.another_worker()
    clock.move(seconds=4)
    found = await fetch(worker)
    assert found["timestamp"].signed.version == 2


async def test_an_old_version_stays_until_it_was_replaced_twice(hub: TrustHub, clock: MovableClock) -> None:
    """A slow device is not cut off in the middle of its download."""
    await fetch(hub)
    old = await hub.director.file(DEVICE, "1.targets.json")
    clock.move(hours=13)
    await fetch(hub)
    assert await hub.director.file(DEVICE, "1.targets.json") == old
    clock.move(hours=13)
    await fetch(hub)
    assert await versions(hub) == [2, 3]
    with pytest.raises(NotFound) as gone:
        await hub.director.file(DEVICE, "1.targets.json")
    assert gone.value.code == "metadata_not_found"


async def test_workers_sign_once_and_share(database_url: str, hub: TrustHub, clock: MovableClock) -> None:
    second = await Database.open(database_url, clock)
    other = await hub.another_worker(second)
    try:
        await assign(hub, DEVICE, "mavsdk")
        asked = [worker.director.file(DEVICE, "timestamp.json") for worker in (hub, other) * 8]
        assert len(set(await asyncio.gather(*asked))) == 1
        assert await versions(hub) == [1]
        # A file of one worker's version comes from the other worker as well.
        assert await other.director.file(DEVICE, "1.targets.json") == await hub.director.file(DEVICE, "1.targets.json")
        await assign(hub, DEVICE, "params")
        assert (await fetch(other))["timestamp"].signed.version == 2
        assert (await fetch(hub))["timestamp"].signed.version == 2
    finally:
        await second.close()


@pytest.mark.parametrize("name", ["1.timestamp.json", "2.root.json", "0.targets.json", "9.snapshot.json", "x", "../a"])
async def test_other_names_are_not_found(hub: TrustHub, name: str) -> None:
    await fetch(hub)
    with pytest.raises(NotFound) as refused:
        await hub.director.file(DEVICE, name)
    assert refused.value.code == "metadata_not_found"


async def test_an_unknown_device(hub: TrustHub) -> None:
    with pytest.raises(NotFound) as refused:
        await hub.director.file(DeviceId("d-nobody"), "timestamp.json")
    assert refused.value.code == "device_unknown"


async def next_root(hub: TrustHub, roles: tuple[str, ...], *, hold: bool = True) -> Metadata[Root]:
    """The director's next root with a new online key for each of these roles; unsigned."""
    root = await hub.root("director")
    for role in roles:
        fresh = (
            await add_online_key(hub.database, hub.data / "online", "director", role)
            if hold
            else Person.named("x").public
        )
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        root.add_key(fresh.key, role)
    root.version += 1
    return Metadata(root)


async def test_replaced_online_keys_sign_at_once(hub: TrustHub) -> None:
    await fetch(hub)
    other = await hub.another_worker()
    await fetch(other)
    metadata = await next_root(hub, ("targets", "snapshot", "timestamp"))
    raw = hub.people.sign(metadata, "director")
    assert await hub.director.push(APPROVER, [raw]) == ["director/root 2"]
    assert await hub.director.file(DEVICE, "2.root.json") == raw
    # A worker that did not take the push must not serve an old signature either.
    assert (await fetch(other, root=metadata.signed))["timestamp"].signed.version == 2
    assert (await fetch(hub))["timestamp"].signed.version == 2
    assert await hub.director.push(APPROVER, [raw]) == ["director/root 2"]


async def test_a_root_that_comes_in_while_a_device_waits(database_url: str, hub: TrustHub, clock: MovableClock) -> None:
    """Another worker takes the root while this one waits for its turn to write: the new keys sign."""
    second = await Database.open(database_url, clock)
    other = await hub.another_worker(second)
    metadata = await next_root(hub, ("timestamp",))
    try:
        async with hub.database._lock:
            asked = asyncio.create_task(hub.director.file(DEVICE, "timestamp.json"))
            await asyncio.sleep(0.2)
            await other.director.push(APPROVER, [hub.people.sign(metadata, "director")])
            assert not asked.done()
        found = await fetch(hub, root=metadata.signed, timestamp=await asked)
        assert found["timestamp"].signed.version == 1
    finally:
        await second.close()


async def test_a_director_root_is_verified_like_any_other(hub: TrustHub) -> None:
    metadata = await next_root(hub, ("timestamp",))
    with pytest.raises(TrustError) as below:
        await hub.director.push(APPROVER, [hub.people.sign(metadata, "director", 1)])
    assert below.value.code == "below_threshold"
    metadata.signatures.clear()
    by_others = hub.people.sign(metadata, "root")
    with pytest.raises(TrustError) as foreign:
        await hub.director.push(APPROVER, [by_others])
    assert foreign.value.code == "below_threshold"
    unheld = await next_root(hub, ("targets",), hold=False)
    with pytest.raises(ConflictError) as missing:
        await hub.director.push(APPROVER, [hub.people.sign(unheld, "director")])
    assert missing.value.code == "online_key_missing"
    with pytest.raises(TrustError) as kind:
        await hub.director.push(APPROVER, [await hub.image.newest("targets")])
    assert kind.value.code == "metadata_invalid"
    with pytest.raises(NotAllowed):
        await hub.director.push(PUBLISHER, [by_others])
    with pytest.raises(BadInput):
        await hub.director.push(APPROVER, [])
    assert (await hub.root("director")).version == 1


async def test_roots_by_digest(hub: TrustHub) -> None:
    """A device that was told an old root gets it, and walks on from there by itself."""
    roots = TrustRoots(hub.database, hub.image)
    first = await hub.director.file(DEVICE, "1.root.json")
    assert roots.root_digests().director == sha256(first)
    assert roots.root_digests().image == sha256(await hub.image.file("1.root.json"))
    raw = hub.people.sign(await next_root(hub, ()), "director")
    await hub.director.push(APPROVER, [raw])
    assert roots.root_digests().director == sha256(raw)
    assert await roots.root_with_digest("director", sha256(first)) == first
    assert await roots.root_with_digest("director", sha256(raw)) == raw
    with pytest.raises(NotFound):
        await roots.root_with_digest("image", sha256(raw))
    newer = rotation.next_root(await hub.root(), "root", KeyChange(), hub.clock.now())
    raw = hub.people.sign(newer, "root")
    await hub.image.push(APPROVER, [raw])
    assert await roots.root_with_digest("image", sha256(raw)) == raw


async def test_the_hot_path_reads_one_row_and_no_document(hub: TrustHub) -> None:
    """What has a version comes out of memory: with the rows gone, it is still there."""
    found = await fetch(hub)
    async with hub.database.unit_of_work() as uow:
        await uow.session.execute(DirectorDocument.__table__.delete())  # type: ignore[attr-defined]
        await uow.commit()
    async with hub.database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(DirectorDocument)) == 0
    again = await fetch(hub)
    assert again["targets"].signed == found["targets"].signed

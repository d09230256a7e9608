"""Releases through the real image repository, signed by people whose keys are in memory."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import zstandard
from sqlalchemy import select
from sqlmodel import col
from tuf.api.metadata import Metadata, TargetFile, Targets

from firmware_schemas.errors import InvalidManifest, InvalidName
from firmware_schemas.release import Component, Document, ReleaseManifest, encode_manifest
from sdx_hub.adapters.blobs import BlobStore
from sdx_hub.adapters.storage import Storage
from sdx_hub.domain.errors import BadInput, ConflictError, HubError, NotAllowed, NotFound, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.publishing import team_metadata
from sdx_hub.services.devices.assigning import AssigningService
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.releases.release_views import ReleaseView
from sdx_hub.services.releases.releases import ReleaseService
from sdx_hub.services.releases.uploads import UploadService
from sdx_hub.trust import rotation
from sdx_hub.trust.rotation import KeyChange
from tests.support.people import Person, sign
from tests.support.trust_hub import TrustHub, start_trust_hub
from tests.unit.sdx_hub.services.conftest import APPROVER, OPERATOR, PUBLISHER, VIEWER, MovableClock

CONTENT = b"the server, version one"
PAYLOAD = hashlib.sha256(CONTENT).hexdigest()
ROLE = "team-nav"


def manifest(
    version: str = "1.0.0", counter: int | None = None, product: str = "steady", **fields: Any
) -> ReleaseManifest:
    numbers = [int(part) for part in version.split(".")]
    return ReleaseManifest(
        product=product,
        version=version,
        release_counter=counter if counter is not None else numbers[0] * 1_000_000 + numbers[1] * 1000 + numbers[2],
        components=(Component("server", "file", PAYLOAD, len(CONTENT)),),
        **fields,
    )


@dataclass
class Setup:
    database: Database
    clock: MovableClock
    trust: TrustHub
    blobs: BlobStore
    uploads: UploadService
    releases: ReleaseService
    fleet: FleetState

    async def next(self, release: ReleaseManifest, role: str = ROLE, yanked: Sequence[str] = ()) -> Metadata[Targets]:
        async with self.database.reading() as session:
            view = await self.trust.image.team_view(session, role)
        return team_metadata.next_version(view, release, yanked, self.clock.now())

    def by(self, *numbers: int, role: str = ROLE) -> list[Person]:
        return [self.trust.people[role][number - 1] for number in numbers]

    async def put(self, release: ReleaseManifest, raw: bytes, role: str = ROLE) -> ReleaseView:
        identity = f"{release.product}@{release.version}"
        return await self.releases.put(PUBLISHER, identity, encode_manifest(release), role, raw)

    async def publish(self, release: ReleaseManifest, role: str = ROLE) -> ReleaseView:
        return await self.put(release, sign(await self.next(release, role), self.by(1, 2, role=role)), role)

    async def targets(self, role: str = ROLE) -> dict[str, TargetFile]:
        return (await self.trust.targets(role)).targets

    async def actions(self) -> list[str]:
        async with self.database.reading() as session:
            return list(await session.scalars(select(col(AuditEntry.action)).order_by(col(AuditEntry.seq))))


@pytest.fixture
async def hub(tmp_path: Path, database: Database, clock: MovableClock) -> Setup:
    trust = await start_trust_hub(database, clock, tmp_path, "nav", "pay")
    storage = Storage(str(tmp_path / "blobs"), "", "", tmp_path / "uploads")
    uploads = UploadService(database, clock, storage)
    fleet = FleetState(database, clock, PollSettings())
    assigning = AssigningService(database, clock, fleet)
    releases = ReleaseService(database, clock, trust.image, blobs=storage.blobs, uploads=uploads, assigning=assigning)
    await uploads.keep(CONTENT)
    return Setup(database, clock, trust, storage.blobs, uploads, releases, fleet)


async def test_two_signatures_publish(hub: Setup) -> None:
    release = manifest(fixes=("FB-1",))
    shown = await hub.publish(release)
    assert (shown.state, shown.threshold, shown.signed_by, shown.missing) == (
        "published",
        2,
        ("team-nav-1", "team-nav-2"),
        (),
    )
    assert shown.published_at == hub.clock.now()
    assert shown.fixes == ("FB-1",)
    listed = await hub.targets()
    assert set(listed) == {"nav/steady/1.0.0/release.json", "nav/steady/1.0.0/server"}
    raw = encode_manifest(release)
    digest = hashlib.sha256(raw).hexdigest()
    assert listed["nav/steady/1.0.0/release.json"].hashes == {"sha256": digest}
    assert b"".join([piece async for piece in hub.blobs.read(digest, "identity", 0, 10**6)]) == raw
    detail = await hub.releases.show(VIEWER, "steady@1.0.0")
    assert detail.manifest == release
    assert set(detail.targets) == set(listed)
    with pytest.raises(NotFound) as refused:
        await hub.releases.proposal(VIEWER, "steady@1.0.0")
    assert refused.value.code == "proposal_not_found"


async def test_one_signature_waits_and_the_second_person_signs_the_same_bytes(hub: Setup) -> None:
    release = manifest()
    raw = sign(await hub.next(release), hub.by(1))
    first = await hub.put(release, raw)
    assert (first.state, first.threshold, first.signed_by, first.missing) == (
        "waiting",
        2,
        ("team-nav-1",),
        ("team-nav-2", "team-nav-3"),
    )
    assert await hub.targets() == {}
    waiting = Metadata[Targets].from_bytes(await hub.releases.proposal(VIEWER, "steady@1.0.0"))
    assert waiting.signed_bytes == Metadata[Targets].from_bytes(raw).signed_bytes
    waiting.signatures.clear()  # From another machine, which brings its own signature only.
    second = await hub.put(release, sign(waiting, hub.by(3)))
    assert (second.state, second.signed_by) == ("published", ("team-nav-1", "team-nav-3"))
    assert "nav/steady/1.0.0/server" in await hub.targets()


async def test_the_same_proposal_again_changes_nothing(hub: Setup) -> None:
    release = manifest()
    raw = sign(await hub.next(release), hub.by(1))
    assert await hub.put(release, raw) == await hub.put(release, raw)
    assert (await hub.actions()).count("release.propose") == 1


async def test_publishing_what_is_published_changes_nothing(hub: Setup) -> None:
    release = manifest()
    raw = sign(await hub.next(release), hub.by(1, 2))
    first = await hub.put(release, raw)
    hub.clock.move(hours=1)
    assert await hub.put(release, raw) == first
    assert (await hub.actions()).count("release.publish") == 1
    assert (await hub.trust.targets(ROLE)).version == 2


async def test_of_two_releases_prepared_at_the_same_time_the_later_one_is_rebased(hub: Setup) -> None:
    one, two = manifest("1.0.0"), manifest("2.0.0")
    late = sign(await hub.next(two), hub.by(1))
    await hub.put(two, late)
    await hub.publish(one)
    outdated = await hub.releases.show(VIEWER, "steady@2.0.0")
    assert (outdated.state, outdated.signed_by, len(outdated.missing)) == ("outdated", (), 3)
    assert await hub.releases.proposal(VIEWER, "steady@2.0.0")
    with pytest.raises(ConflictError) as refused:
        await hub.put(two, late)
    assert refused.value.code == "metadata_outdated"
    rebased = sign(await hub.next(two), hub.by(2))
    again = await hub.put(two, rebased)
    assert (again.state, again.signed_by) == ("waiting", ("team-nav-2",))
    assert (await hub.put(two, sign(Metadata[Targets].from_bytes(rebased), hub.by(3)))).state == "published"
    assert {path.split("/")[2] for path in await hub.targets()} == {"1.0.0", "2.0.0"}


async def test_another_teams_waiting_release_is_not_overtaken(hub: Setup) -> None:
    theirs = manifest(product="camera")
    await hub.put(theirs, sign(await hub.next(theirs, "team-pay"), hub.by(1, role="team-pay")), "team-pay")
    await hub.publish(manifest())
    assert (await hub.releases.show(VIEWER, "camera@1.0.0")).state == "waiting"


async def test_a_payload_that_is_not_here_is_named(hub: Setup) -> None:
    other, document = "ab" * 32, "cd" * 32
    release = manifest(documents=(Document("sbom", document, 3),), sbom="sbom")
    release = ReleaseManifest(
        **{
            **{name: getattr(release, name) for name in release.__struct_fields__},
            "components": (*release.components, Component("other", "file", other, 5)),
        }
    )
    with pytest.raises(ConflictError) as refused:
        await hub.publish(release)
    assert refused.value.code == "payload_missing"
    assert refused.value.extra == {"missing": [other, document]}
    with pytest.raises(NotFound):
        await hub.releases.show(VIEWER, "steady@1.0.0")


async def test_a_payload_of_another_length_is_refused(hub: Setup) -> None:
    release = manifest()
    longer = ReleaseManifest("steady", "1.0.0", 1, (Component("server", "file", PAYLOAD, len(CONTENT) + 1),))
    with pytest.raises(TrustError) as refused:
        await hub.put(longer, sign(await hub.next(release), hub.by(1, 2)))
    assert refused.value.code == "payload_digest_mismatch"


async def refused_put(hub: Setup, release: ReleaseManifest, raw: bytes, role: str = ROLE) -> HubError:
    before = (await hub.trust.targets(ROLE)).version
    with pytest.raises(HubError) as refused:
        await hub.put(release, raw, role)
    assert (await hub.trust.targets(ROLE)).version == before
    return refused.value


async def test_unsigned_metadata_does_not_even_wait(hub: Setup) -> None:
    release = manifest()
    assert (await refused_put(hub, release, (await hub.next(release)).to_bytes())).code == "unsigned"
    with pytest.raises(NotFound):
        await hub.releases.show(VIEWER, "steady@1.0.0")


async def test_a_signature_of_a_stranger_or_of_another_team_is_refused(hub: Setup) -> None:
    release = manifest()
    for person in (Person.named("mallory"), hub.by(1, role="team-pay")[0]):
        raw = sign(await hub.next(release), [*hub.by(1), person])
        assert (await refused_put(hub, release, raw)).code == "signature_invalid"


async def test_metadata_that_does_more_than_publish_the_release_is_refused(hub: Setup) -> None:
    await hub.publish(manifest())
    release = manifest("2.0.0")

    def add(signed: Targets) -> None:
        signed.targets["nav/steady/3.0.0/server"] = TargetFile(1, {"sha256": "00" * 32}, "nav/steady/3.0.0/server")

    def drop(signed: Targets) -> None:
        del signed.targets["nav/steady/1.0.0/server"]

    def change(signed: Targets) -> None:
        signed.targets["nav/steady/1.0.0/server"].length += 1

    def swap(signed: Targets) -> None:
        signed.targets["nav/steady/2.0.0/server"].hashes["sha256"] = "00" * 32

    for tamper in (add, drop, change, swap):
        metadata = await hub.next(release)
        tamper(metadata.signed)
        assert (await refused_put(hub, release, sign(metadata, hub.by(1, 2)))).code == "targets_changed", tamper


async def test_expired_or_overlong_metadata_is_refused(hub: Setup) -> None:
    release = manifest()
    for life in (timedelta(seconds=-1), timedelta(days=3650)):
        metadata = await hub.next(release)
        metadata.signed.expires = hub.clock.now() + life
        assert (await refused_put(hub, release, sign(metadata, hub.by(1, 2)))).code == "expiry_refused"


async def test_another_content_under_the_same_id_is_refused(hub: Setup) -> None:
    release, other = manifest(), manifest(notes="other")
    await hub.put(release, sign(await hub.next(release), hub.by(1)))
    assert (await refused_put(hub, other, sign(await hub.next(other), hub.by(1, 2)))).code == "release_exists"
    await hub.publish(release)
    assert (await refused_put(hub, other, sign(await hub.next(manifest("9.0.0")), hub.by(1)))).code == "release_exists"


async def test_a_product_belongs_to_the_team_that_proposed_it_first(hub: Setup) -> None:
    first = manifest()
    await hub.put(first, sign(await hub.next(first), hub.by(1)))
    second = manifest("2.0.0")
    raw = sign(await hub.next(second, "team-pay"), hub.by(1, 2, role="team-pay"))
    assert (await refused_put(hub, second, raw, "team-pay")).code == "product_of_another_team"
    raw = sign(await hub.next(first, "team-pay"), hub.by(1, 2, role="team-pay"))
    assert (await refused_put(hub, first, raw, "team-pay")).code == "product_of_another_team"


async def test_a_release_counter_is_published_once(hub: Setup) -> None:
    await hub.publish(manifest("1.0.0", counter=5))
    second = manifest("1.0.1", counter=5)
    assert (await refused_put(hub, second, sign(await hub.next(second), hub.by(1)))).code == "release_counter_taken"
    await hub.releases.yank(APPROVER, "steady@1.0.0", "bad")
    assert (await refused_put(hub, second, sign(await hub.next(second), hub.by(1)))).code == "release_counter_taken"
    assert (await hub.publish(manifest("0.9.0", counter=4))).state == "published"


async def test_a_manifest_that_is_not_this_releases_or_not_canonical_is_refused(hub: Setup) -> None:
    release = manifest()
    raw = sign(await hub.next(release), hub.by(1, 2))
    for identity, content, error in (
        ("steady@2.0.0", encode_manifest(release), BadInput),
        ("steady@1.0.0", encode_manifest(release) + b" ", BadInput),
        ("steady@1.0.0", b"{}", InvalidManifest),
        ("steady", encode_manifest(release), InvalidName),
    ):
        with pytest.raises(error):
            await hub.releases.put(PUBLISHER, identity, content, ROLE, raw)


async def test_a_role_that_is_not_there(hub: Setup) -> None:
    release = manifest()
    raw = sign(await hub.next(release), hub.by(1, 2))
    assert (await refused_put(hub, release, raw, "team-nobody")).code == "role_unknown"
    assert (await refused_put(hub, release, b"no metadata")).code == "metadata_invalid"


async def test_other_bytes_do_not_push_out_somebodys_signature(hub: Setup) -> None:
    release = manifest()
    await hub.put(release, sign(await hub.next(release), hub.by(1)))
    hub.clock.move(seconds=5)
    assert (await refused_put(hub, release, sign(await hub.next(release), hub.by(2)))).code == "proposal_differs"
    assert (await hub.releases.show(VIEWER, "steady@1.0.0")).signed_by == ("team-nav-1",)


async def test_other_bytes_that_the_same_person_signed_take_the_place(hub: Setup) -> None:
    release = manifest()
    await hub.put(release, sign(await hub.next(release), hub.by(1)))
    hub.clock.move(seconds=5)
    raw = sign(await hub.next(release), hub.by(1))
    assert (await hub.put(release, raw)).state == "waiting"
    kept = Metadata[Targets].from_bytes(await hub.releases.proposal(VIEWER, "steady@1.0.0"))
    assert kept.signed_bytes == Metadata[Targets].from_bytes(raw).signed_bytes


async def test_other_bytes_with_enough_signatures_publish(hub: Setup) -> None:
    release = manifest()
    await hub.put(release, sign(await hub.next(release), hub.by(1)))
    hub.clock.move(seconds=5)
    assert (await hub.put(release, sign(await hub.next(release), hub.by(2, 3)))).state == "published"


async def test_a_stored_signature_whose_key_was_revoked_no_longer_counts(hub: Setup) -> None:
    release = manifest()
    await hub.put(release, sign(await hub.next(release), hub.by(1)))
    current = await hub.trust.targets()
    fresh = Person.named("newcomer")
    change = KeyChange(add=(fresh.public,), drop=("team-nav-1",))
    targets = sign(rotation.next_targets(current, ROLE, change, hub.clock.now()), hub.by(1, 2, role="targets"))
    team = rotation.refreshed_team(await hub.trust.targets(ROLE), hub.clock.now())
    await hub.trust.image.push(APPROVER, [targets, sign(team, hub.by(2, 3))])
    shown = await hub.releases.show(VIEWER, "steady@1.0.0")
    assert (shown.state, shown.signed_by) == ("outdated", ())
    assert shown.missing == ("newcomer", "team-nav-2", "team-nav-3")
    rebased = await hub.put(release, sign(await hub.next(release), [fresh]))
    assert (rebased.state, rebased.signed_by) == ("waiting", ("newcomer",))


async def test_a_yanked_release_is_taken_from_devices_and_never_comes_back(hub: Setup) -> None:
    release = manifest()
    raw = sign(await hub.next(release), hub.by(1, 2))
    await hub.put(release, raw)
    async with hub.database.unit_of_work() as uow:
        uow.session.add(
            Device(
                id="d-" + "0" * 20,
                number=1,
                serial="S1",
                device_key="k",
                hardware="any",
                state="accepted",
                token_sha256="00" * 32,
                change_seq=1,
                created_at=hub.clock.now(),
            )
        )
        await uow.commit()
    await AssigningService(hub.database, hub.clock, hub.fleet).assign(OPERATOR, "steady@1.0.0", ["S1"], None)
    yanked = await hub.releases.yank(APPROVER, "steady@1.0.0", "  it falls out of the sky ")
    assert (yanked.state, yanked.yank_reason, yanked.yanked_at) == (
        "yanked",
        "it falls out of the sky",
        hub.clock.now(),
    )
    async with hub.database.reading() as session:
        assert (await session.scalars(select(Assignment))).all() == []
        action = (await session.scalars(select(Action))).one()
        assert (action.state, action.code) == ("cancelled", "release_yanked")
    assert await hub.releases.yank(APPROVER, "steady@1.0.0", "again") == yanked
    assert (await refused_put(hub, release, raw)).code == "release_yanked"
    following = manifest("1.1.0")
    metadata = await hub.next(following, yanked=["steady@1.0.0"])
    await hub.put(following, sign(metadata, hub.by(1, 2)))
    assert {path.split("/")[2] for path in await hub.targets()} == {"1.1.0"}


async def test_what_cannot_be_yanked(hub: Setup) -> None:
    release = manifest()
    await hub.put(release, sign(await hub.next(release), hub.by(1)))
    with pytest.raises(ConflictError) as refused:
        await hub.releases.yank(APPROVER, "steady@1.0.0", "why not")
    assert refused.value.code == "release_not_published"
    with pytest.raises(NotFound):
        await hub.releases.yank(APPROVER, "steady@9.0.0", "why not")
    with pytest.raises(BadInput) as wordless:
        await hub.releases.yank(APPROVER, "steady@1.0.0", " ")
    assert wordless.value.code == "invalid_reason"


async def test_who_may_do_what(hub: Setup) -> None:
    release = manifest()
    raw = sign(await hub.next(release), hub.by(1, 2))
    for principal in (VIEWER, OPERATOR):
        with pytest.raises(NotAllowed):
            await hub.releases.put(principal, "steady@1.0.0", encode_manifest(release), ROLE, raw)
    await hub.publish(release)
    for principal in (VIEWER, OPERATOR, PUBLISHER):
        with pytest.raises(NotAllowed):
            await hub.releases.yank(principal, "steady@1.0.0", "reason")
        assert (await hub.releases.show(principal, "steady@1.0.0")).state == "published"


async def test_lists_are_newest_first_in_pages_and_filtered(hub: Setup) -> None:
    for number in range(1, 6):
        if number != 3:  # Two with the same time.
            hub.clock.move(seconds=1)
        await hub.publish(manifest(f"1.0.{number}"))
    waits = manifest("2.0.0", product="other")
    hub.clock.move(seconds=1)
    await hub.put(waits, sign(await hub.next(waits), hub.by(1)))
    seen, cursor = [], None
    while True:
        page = await hub.releases.list(VIEWER, product=None, state=None, cursor=cursor, limit=2)
        seen += [item.id for item in page.items]
        cursor = page.following
        if cursor is None:
            break
    assert seen == ["other@2.0.0", *(f"steady@1.0.{number}" for number in (5, 4, 3, 2, 1))]
    published = await hub.releases.list(VIEWER, product=None, state="published", cursor=None, limit=100)
    assert len(published.items) == 5
    assert published.following is None
    other = await hub.releases.list(VIEWER, product="other", state=None, cursor=None, limit=100)
    assert [(item.id, item.signed_by, item.threshold) for item in other.items] == [("other@2.0.0", ("team-nav-1",), 2)]
    for bad in ({"state": "gone", "cursor": None}, {"state": None, "cursor": "???"}, {"state": None, "cursor": "MQ"}):
        with pytest.raises(BadInput):
            await hub.releases.list(VIEWER, product=None, limit=10, **bad)


async def test_a_large_payload_needs_both_forms(hub: Setup) -> None:
    """A device that asks for the compressed form must find it: one form alone is an upload that is not complete."""
    raw = os.urandom(1000)
    sha256 = hashlib.sha256(raw).hexdigest()
    path = hub.trust.data / "half"
    path.write_bytes(raw)
    await hub.blobs.put(sha256, "identity", path)
    release = ReleaseManifest("steady", "1.0.0", 1, (Component("server", "file", sha256, len(raw)),))
    assert (await refused_put(hub, release, sign(await hub.next(release), hub.by(1, 2)))).code == "payload_missing"
    path.write_bytes(zstandard.compress(raw))
    await hub.blobs.put(sha256, "zstd", path)
    assert (await hub.publish(release)).state == "published"

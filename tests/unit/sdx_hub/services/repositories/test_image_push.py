"""People bring roots, targets and team metadata: what is accepted together, and what is refused as a whole."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tuf.api.metadata import DelegatedRole, Metadata, Targets

from sdx_hub.domain.errors import BadInput, ConflictError, HubError, NotAllowed, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.releases import Product, Proposal, Release
from sdx_hub.persistence.tables.trust import MetadataFile
from sdx_hub.services.repositories.hub_init import add_online_key
from sdx_hub.trust import rotation
from sdx_hub.trust.rotation import KeyChange
from tests.support.people import Person, sign
from tests.support.trust_hub import TrustHub, refresh_client, start_trust_hub
from tests.unit.sdx_hub.services.conftest import ADMIN, APPROVER, PUBLISHER, MovableClock
from tests.unit.sdx_hub.services.repositories.test_image_repository import PATH, publish, target


@pytest.fixture
async def hub(tmp_path: Path, database: Database, clock: MovableClock) -> TrustHub:
    return await start_trust_hub(database, clock, tmp_path, "nav", "pay")


async def root_with(hub: TrustHub, role: str, change: KeyChange, *, repository: str = "image") -> Metadata[Any]:
    return rotation.next_root(await hub.root(repository), role, change, hub.clock.now())


async def revoke(hub: TrustHub, gone: Person, replacement: Person) -> Metadata[Targets]:
    """The next top targets role, with another person in team nav; unsigned."""
    change = KeyChange(add=(replacement.public,), drop=(gone.keyid,))
    return rotation.next_targets(await hub.targets(), "team-nav", change, hub.clock.now())


async def everything(hub: TrustHub) -> set[tuple[str, str, int, bytes]]:
    async with hub.database.reading() as session:
        rows = await session.scalars(select(MetadataFile))
        return {(row.repository, row.role, row.version, row.raw) for row in rows}


async def assert_refused(hub: TrustHub, raws: list[bytes], error: type[HubError], code: str) -> HubError:
    """The push is refused with `code`, and nothing at all is stored."""
    before = await everything(hub)
    with pytest.raises(error) as refused:
        await hub.image.push(APPROVER, raws)
    assert refused.value.code == code, refused.value
    assert await everything(hub) == before
    return refused.value


async def test_a_new_root_is_stored_byte_for_byte(hub: TrustHub) -> None:
    raw = hub.people.sign(await root_with(hub, "root", KeyChange()), "root")
    odd = b" " + raw.replace(b"{", b"{\n", 1)
    assert await hub.image.push(APPROVER, [odd]) == ["image/root 2"]
    assert await hub.image.file("2.root.json") == odd
    assert (await hub.signed("snapshot")).version == 2
    assert (await hub.signed("timestamp")).version == 2
    async with hub.database.reading() as session:
        entry = await session.scalar(select(AuditEntry).order_by(AuditEntry.seq.desc()).limit(1))  # type: ignore[attr-defined]
    assert entry is not None
    assert (entry.actor, entry.action, entry.subject) == ("anna", "trust.push", "image/root")


async def test_a_push_needs_an_approver(hub: TrustHub) -> None:
    raw = hub.people.sign(await root_with(hub, "root", KeyChange()), "root")
    with pytest.raises(NotAllowed):
        await hub.image.push(PUBLISHER, [raw])
    assert await hub.image.push(ADMIN, [raw]) == ["image/root 2"]


async def test_the_same_push_again_changes_nothing(hub: TrustHub) -> None:
    """The answer was lost on the way, and the files are pushed again."""
    raw = hub.people.sign(await root_with(hub, "root", KeyChange()), "root")
    await hub.image.push(APPROVER, [raw])
    before = await everything(hub)
    assert await hub.image.push(APPROVER, [raw]) == ["image/root 2"]
    assert await everything(hub) == before


async def test_a_root_needs_the_old_threshold_and_the_new_one(hub: TrustHub) -> None:
    one = hub.people.sign(await root_with(hub, "root", KeyChange()), "root", 1)
    refused = await assert_refused(hub, [one], TrustError, "below_threshold")
    assert refused.extra["threshold"] == 2
    newcomers = [Person.named(f"new-{number}") for number in range(3)]
    change = KeyChange(
        add=tuple(person.public for person in newcomers), drop=tuple(person.keyid for person in hub.people["root"])
    )
    by_new = sign(await root_with(hub, "root", change), newcomers)
    await assert_refused(hub, [by_new], TrustError, "below_threshold")
    by_old = hub.people.sign(await root_with(hub, "root", change), "root")
    await assert_refused(hub, [by_old], TrustError, "below_threshold")
    by_both = sign(await root_with(hub, "root", change), [*hub.people["root"][:2], *newcomers[:2]])
    assert await hub.image.push(APPROVER, [by_both]) == ["image/root 2"]


async def test_roots_come_in_order_and_without_gaps(hub: TrustHub) -> None:
    second = await root_with(hub, "root", KeyChange())
    third = rotation.next_root(second.signed, "root", KeyChange(), hub.clock.now())
    raw_second, raw_third = hub.people.sign(second, "root"), hub.people.sign(third, "root")
    refused = await assert_refused(hub, [raw_third], ConflictError, "metadata_outdated")
    assert refused.extra["current_version"] == 1
    assert await hub.image.push(APPROVER, [raw_third, raw_second]) == ["image/root 2", "image/root 3"]
    await assert_refused(
        hub, [hub.people.sign(await root_with(hub, "root", KeyChange()), "director")], TrustError, "below_threshold"
    )


async def test_an_online_key_that_the_hub_does_not_hold(hub: TrustHub) -> None:
    """A root that names it would silence the hub: it is refused until the key has been made here."""
    stranger = Person.named("stranger")
    old = (await hub.root()).roles["snapshot"].keyids
    raw = hub.people.sign(await root_with(hub, "snapshot", KeyChange(add=(stranger.public,), drop=tuple(old))), "root")
    refused = await assert_refused(hub, [raw], ConflictError, "online_key_missing")
    assert refused.extra == {"repository": "image", "role": "snapshot"}


async def test_online_keys_are_replaced_by_a_root(tmp_path: Path, hub: TrustHub) -> None:
    """Snapshot and timestamp are signed with the new keys at once, and their numbers go on."""
    await publish(hub, PATH)
    change = {}
    for role in ("snapshot", "timestamp"):
        fresh = await add_online_key(hub.database, hub.data / "online", "image", role)
        change[role] = KeyChange(add=(fresh,), drop=tuple((await hub.root()).roles[role].keyids))
    metadata = await root_with(hub, "snapshot", change["snapshot"])
    metadata = rotation.next_root(metadata.signed, "timestamp", change["timestamp"], hub.clock.now())
    metadata.signed.version = 2
    assert await hub.image.push(APPROVER, [hub.people.sign(metadata, "root")]) == ["image/root 2"]
    root = await hub.root()
    for role in ("snapshot", "timestamp"):
        signed = Metadata[Any].from_bytes(await hub.image.newest(role))
        assert set(signed.signatures) == {change[role].add[0].keyid}
        root.verify_delegate(role, signed.signed_bytes, signed.signatures)
        assert signed.signed.version == 3
    # A worker that was started before signs with them too.
    other = await hub.another_worker()
    await publish(other, PATH.replace("1.0.0", "2.0.0"))
    assert set(Metadata[Any].from_bytes(await other.image.newest("snapshot")).signatures) == {
        change["snapshot"].add[0].keyid
    }


async def test_a_client_recovers_from_a_fast_forward(tmp_path: Path, database: Database, clock: MovableClock) -> None:
    """TUF 1.0.34, 5.3.11: with replaced online keys, a client forgets versions that an attacker pushed far ahead."""
    from datetime import UTC, datetime

    from tuf.api.exceptions import BadVersionNumberError

    clock.time = datetime.now(UTC)
    hub = await start_trust_hub(database, clock, tmp_path, "nav")
    first = await hub.image.file("1.root.json")
    folder = tmp_path / "client"
    await refresh_client(hub, folder, first)
    ahead = Metadata[Any].from_bytes(await hub.image.file("timestamp.json"))
    ahead.signed.version = 2**31
    stolen = hub.image._signers.for_role("image", "timestamp", await hub.root())
    ahead.signatures.clear()
    ahead.sign(stolen[0])
    honest = hub.image.file

    async def lying(name: str) -> bytes:
        return ahead.to_bytes() if name == "timestamp.json" else await honest(name)

    hub.image.file = lying  # type: ignore[method-assign]
    await refresh_client(hub, folder, first)
    hub.image.file = honest  # type: ignore[method-assign]
    with pytest.raises(BadVersionNumberError):
        await refresh_client(hub, folder, first)
    fresh = await add_online_key(hub.database, hub.data / "online", "image", "timestamp")
    change = KeyChange(add=(fresh,), drop=tuple((await hub.root()).roles["timestamp"].keyids))
    await hub.image.push(APPROVER, [hub.people.sign(await root_with(hub, "timestamp", change), "root")])
    updater, _ = await refresh_client(hub, folder, first)
    assert updater is not None


async def test_revoking_a_key_wants_the_team_signed_anew(hub: TrustHub) -> None:
    """The team's newest metadata was signed by the one who leaves: alone, the revocation would cut the team off."""
    await publish(hub, PATH)
    gone, stays = hub.people["team-nav"][:2]
    newcomer = Person.named("nav-new")
    raw_targets = hub.people.sign(await revoke(hub, gone, newcomer), "targets")
    refused = await assert_refused(hub, [raw_targets], TrustError, "team_below_threshold")
    assert refused.extra["role"] == "image/team-nav"
    assert refused.extra["signed_by"] == [stays.public.owner]

    anew = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    by_gone = sign(anew, [gone, stays])
    await assert_refused(hub, [raw_targets, by_gone], TrustError, "below_threshold")
    anew.signatures.clear()
    raw_team = sign(anew, [stays, newcomer])
    assert await hub.image.push(APPROVER, [raw_team, raw_targets]) == ["image/targets 2", "image/team-nav 3"]
    assert await hub.image.file("3.team-nav.json") == raw_team
    assert (await hub.signed("snapshot")).meta["team-nav.json"].version == 3
    assert list((await hub.targets("team-nav")).targets) == [PATH]


async def test_a_revocation_that_leaves_enough_signatures_needs_no_more(hub: TrustHub) -> None:
    await publish(hub, PATH)
    gone = hub.people["team-nav"][2]
    raw = hub.people.sign(await revoke(hub, gone, Person.named("nav-new")), "targets")
    assert await hub.image.push(APPROVER, [raw]) == ["image/targets 2"]


async def test_a_new_team_comes_with_its_first_metadata(hub: TrustHub) -> None:
    members = [Person.named(f"cam-{number}") for number in range(3)]
    change = KeyChange(add=tuple(person.public for person in members))
    metadata = rotation.next_targets(await hub.targets(), "team-cam", change, hub.clock.now())
    raw = hub.people.sign(metadata, "targets")
    refused = await assert_refused(hub, [raw], TrustError, "team_metadata_missing")
    assert refused.extra["role"] == "image/team-cam"
    first = sign(rotation.first_team(hub.clock.now()), members[:2])
    assert await hub.image.push(APPROVER, [first, raw]) == ["image/targets 2", "image/team-cam 1"]
    assert (await hub.signed("snapshot")).meta["team-cam.json"].version == 1


async def test_a_new_team_of_the_same_people(hub: TrustHub) -> None:
    """TUF metadata does not name its role; the one that still needs metadata is meant."""
    members = hub.people["team-pay"]
    change = KeyChange(add=tuple(person.public for person in members))
    metadata = rotation.next_targets(await hub.targets(), "team-cam", change, hub.clock.now())
    first = sign(rotation.first_team(hub.clock.now()), members)
    pushed = await hub.image.push(APPROVER, [hub.people.sign(metadata, "targets"), first])
    assert pushed == ["image/targets 2", "image/team-cam 1"]
    # From now on nothing tells two empty roles of the same people apart.
    second = rotation.refreshed_team(await hub.targets("team-cam"), hub.clock.now())
    await assert_refused(hub, [sign(second, members)], BadInput, "role_ambiguous")


async def test_a_team_that_is_no_longer_delegated_to_stays_in_the_snapshot(hub: TrustHub) -> None:
    """Clients take a role that left the snapshot for a rollback (TUF 1.0.34, 5.5.5)."""
    targets = await hub.targets()
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    gone = targets.delegations.roles.pop("team-pay")
    for keyid in gone.keyids:
        del targets.delegations.keys[keyid]
    targets.version += 1
    await hub.image.push(APPROVER, [hub.people.sign(Metadata(targets), "targets")])
    assert "team-pay.json" in (await hub.signed("snapshot")).meta


async def test_a_root_that_leaves_the_targets_role_behind(hub: TrustHub) -> None:
    """New people for the targets role: their own metadata must come along."""
    newcomers = [Person.named(f"new-{number}") for number in range(3)]
    change = KeyChange(
        add=tuple(person.public for person in newcomers), drop=tuple(person.keyid for person in hub.people["targets"])
    )
    raw_root = hub.people.sign(await root_with(hub, "targets", change), "root")
    await assert_refused(hub, [raw_root], TrustError, "targets_below_threshold")
    following = rotation.next_targets(await hub.targets(), "team-nav", KeyChange(), hub.clock.now())
    raw_targets = sign(following, newcomers[:2])
    assert await hub.image.push(APPROVER, [raw_targets, raw_root]) == ["image/root 2", "image/targets 2"]


async def test_content_enters_by_releases_alone(hub: TrustHub) -> None:
    """Two people of the team could otherwise publish what the hub has neither checked nor stored."""
    await publish(hub, PATH)
    more = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    more.signed.targets["nav/mavsdk/9.9.9/x"] = target("nav/mavsdk/9.9.9/x")
    await assert_refused(hub, [hub.people.sign(more, "team-nav")], TrustError, "targets_changed")
    other = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    other.signed.targets[PATH] = target(PATH, b"other")
    await assert_refused(hub, [hub.people.sign(other, "team-nav")], TrustError, "targets_changed")
    less = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    less.signed.targets.clear()
    await assert_refused(hub, [hub.people.sign(less, "team-nav")], TrustError, "targets_changed")


async def add_release(hub: TrustHub, state: str, proposal: bytes = b"") -> None:
    async with hub.database.unit_of_work() as uow:
        uow.session.add(Product(name="mavsdk", team_role="team-nav"))
        await uow.session.flush()
        release = {"id": "mavsdk@1.0.0", "product": "mavsdk", "version": "1.0.0", "team_role": "team-nav"}
        now = hub.clock.now()
        counters = {"release_counter": 1, "revert_counter": 1}
        row = Release(**release, **counters, manifest=b"{}", state=state, created_by="paul", created_at=now)
        uow.session.add(row)
        await uow.session.flush()
        if proposal:
            uow.session.add(
                Proposal(release_id="mavsdk@1.0.0", role="team-nav", base_version=1, raw=proposal, updated_at=now)
            )
        await uow.commit()


async def test_a_yanked_release_may_leave(hub: TrustHub) -> None:
    await publish(hub, PATH)
    await add_release(hub, "yanked")
    less = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    less.signed.targets.clear()
    assert await hub.image.push(APPROVER, [hub.people.sign(less, "team-nav")]) == ["image/team-nav 3"]


async def test_waiting_releases_learn_of_a_push(hub: TrustHub) -> None:
    """A revoked key's signature leaves the proposal; a team that goes on leaves the release outdated."""
    gone, stays = hub.people["team-nav"][2], hub.people["team-nav"][0]
    waiting = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    await add_release(hub, "waiting", sign(waiting, [gone, stays]))
    await hub.image.push(APPROVER, [hub.people.sign(await revoke(hub, gone, Person.named("nav-new")), "targets")])
    async with hub.database.reading() as session:
        proposal = await session.get(Proposal, "mavsdk@1.0.0")
        release = await session.get(Release, "mavsdk@1.0.0")
    assert proposal is not None
    assert release is not None
    assert set(Metadata[Any].from_bytes(proposal.raw).signatures) == {stays.keyid}
    assert release.state == "waiting"
    anew = rotation.refreshed_team(await hub.targets("team-nav"), hub.clock.now())
    await hub.image.push(APPROVER, [hub.people.sign(anew, "team-nav")])
    async with hub.database.reading() as session:
        release = await session.get(Release, "mavsdk@1.0.0")
    assert release is not None
    assert release.state == "outdated"


async def test_top_targets_may_only_delegate_to_teams(hub: TrustHub) -> None:
    """The people who delegate cannot hand one team the paths of another, or publish anything themselves."""

    async def changed(change: Any) -> bytes:
        targets = await hub.targets()
        change(targets)
        targets.version += 1
        return hub.people.sign(Metadata(targets), "targets")

    def widen(targets: Targets) -> None:
        role(targets).paths = ["nav/*/*/*", "pay/*/*/*"]

    def hang_on(targets: Targets) -> None:
        role(targets).terminating = False

    def rename(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        twin = role(targets)
        paths = ["fleet-config/*/*/*"]
        fake = DelegatedRole("team-fleet-config", twin.keyids, twin.threshold, True, paths)
        targets.delegations.roles["team-fleet-config"] = fake

    def own(targets: Targets) -> None:
        targets.targets[PATH] = target()

    def role(targets: Targets) -> DelegatedRole:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        return targets.delegations.roles["team-nav"]

    for change in (widen, hang_on, rename, own):
        await assert_refused(hub, [await changed(change)], TrustError, "delegation_refused")


async def test_what_the_hub_signs_is_not_taken_from_anybody(hub: TrustHub) -> None:
    timestamp = await hub.image.newest("timestamp")
    await assert_refused(hub, [timestamp], TrustError, "metadata_invalid")
    await assert_refused(hub, [b"{}"], TrustError, "metadata_invalid")
    await assert_refused(hub, [], BadInput, "metadata_count")
    await assert_refused(hub, [timestamp] * 65, BadInput, "metadata_count")

"""The verifier, step by step, against metadata that is signed and wrong."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Targets

from device_agent.core.errors import AgentError, InstallError, SettingsError, TransportError, TrustError
from device_agent.core.plan import Facts, Plan
from device_agent.ports.storage import DiskStorage
from device_agent.trust import trusted_time
from device_agent.trust.refresh import Fetch, MetadataFolder
from device_agent.trust.verify import Verifier
from firmware_schemas.limits import MAX_DELEGATIONS
from firmware_schemas.release import ReleaseManifest
from tests.support.craft import HARDWARE
from tests.support.fake_clock import FakeClock
from tests.support.forge import altered, in_days, seal
from tests.support.publisher import Payload, target_file, targets_by_path
from tests.support.static_hub import DEVICE, TEAM, StaticHub

LATE_S = int(datetime(2099, 12, 31, tzinfo=UTC).timestamp())
PARTS = [Payload("server", {"VERSION": b"1"}), Payload("params", b"x")]


class Device:
    """The verifier's side of a device: two metadata folders and a clock."""

    def __init__(self, hub: StaticHub, root: Path) -> None:
        self.hub, self.clock = hub, FakeClock()
        self.folders = {name: MetadataFolder(root / name, DiskStorage()) for name in ("director", "image")}
        for name, folder in self.folders.items():
            folder.write("root", hub.files[f"{hub.base(name)}1.root.json"])
        self.facts = Facts(
            device=DEVICE,
            hardware=HARDWARE,
            types=frozenset({"directory", "file"}),
            floors={},
            releases=(),
            running={},
            slots={},
            bad=(),
        )

    def fetcher(self, repository: str) -> Fetch:
        return lambda name, _longest: self.hub.files.get(self.hub.base(repository) + name)

    def verify(self) -> Plan:
        verifier = Verifier(
            self.folders["director"],
            self.folders["image"],
            self.fetcher("director"),
            self.fetcher("image"),
            self.clock,
        )
        instruction = verifier.instruction(self.facts)
        return verifier.plan(instruction, self.facts, self.blob, longest_trial_s=60).value

    def blob(self, sha256: str, _length: int) -> bytes:
        return self.hub.blobs[sha256]

    def refuses(self, code: str, kind: type[AgentError] = TrustError) -> None:
        with pytest.raises(kind) as caught:
            self.verify()
        assert caught.value.code == code

    @property
    def floor_s(self) -> int:
        return trusted_time.decode_floor(self.folders["director"].read("time_floor")).time_s


@pytest.fixture
def hub() -> StaticHub:
    return StaticHub()


@pytest.fixture
def device(hub: StaticHub, tmp_path: Path) -> Device:
    return Device(hub, tmp_path)


@pytest.fixture
def release(hub: StaticHub) -> ReleaseManifest:
    manifest = hub.publish("app", 1, PARTS)
    hub.assign(manifest)
    return manifest


def change(hub: StaticHub, repository: str, name: str, role: str, edit: Callable[[Any], None]) -> None:
    """Alter a file and sign it with the right key."""
    path = hub.base(repository) + name
    hub.files[path] = altered(hub.files[path], [hub.keys[repository].by_role[role]], edit)


def test_an_honest_instruction_becomes_a_plan(device: Device, release: ReleaseManifest) -> None:
    plan = device.verify()
    assert plan.action == device.hub.action
    assert [item.component.name for item in plan.items] == ["params", "server"]
    assert {item.component.sha256 for item in plan.items} == {part.sha256 for part in release.components}


@pytest.mark.usefixtures("release")
def test_the_same_again_asks_for_nothing_that_is_known(device: Device) -> None:
    device.verify()
    kept = {path: raw for path, raw in device.hub.files.items() if path.endswith("timestamp.json")}
    device.hub.files = kept
    assert device.verify().action == device.hub.action


@pytest.mark.usefixtures("release")
def test_instructions_for_another_device(device: Device, hub: StaticHub) -> None:
    hub.instruct({}, action="other.1", device="d-other")
    device.refuses("wrong_device")


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("field", ["x-sdx-device", "x-sdx-action"])
def test_instructions_that_do_not_say_whom_or_what_they_are_for(device: Device, hub: StaticHub, field: str) -> None:
    change(
        hub,
        "director",
        f"{hub.version}.targets.json",
        "targets",
        lambda signed: signed.unrecognized_fields.update({field: 7}),
    )
    device.refuses("metadata_malformed")


@pytest.mark.usefixtures("release")
@pytest.mark.parametrize("time_s", [None, "now", -1, 2**60, True])
def test_a_timestamp_that_does_not_say_when_it_was_signed(device: Device, hub: StaticHub, time_s: object) -> None:
    path = hub.base("director") + "timestamp.json"
    document = json.loads(hub.files[path])
    document["signed"]["x-sdx-time"] = time_s
    metadata = Metadata.from_dict(document)  # type: ignore[var-annotated]
    hub.files[path] = seal(metadata.signed, [hub.keys["director"].by_role["timestamp"]])
    device.refuses("metadata_malformed")


def test_a_director_that_delegates(device: Device, hub: StaticHub, release: ReleaseManifest) -> None:
    key = hub.team[0].public_key
    role = DelegatedRole("helper", [key.keyid], 1, terminating=False, paths=["*"])

    def delegate(signed: Any) -> None:
        signed.delegations = Delegations({key.keyid: key}, {"helper": role})

    assert release
    change(hub, "director", f"{hub.version}.targets.json", "targets", delegate)
    device.refuses("metadata_malformed")


def test_a_director_that_says_nothing_is_behind(device: Device) -> None:
    device.refuses("director_behind", TransportError)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.usefixtures("release")
def test_director_metadata_under_a_wrong_key(device: Device, hub: StaticHub, role: str) -> None:
    name = "timestamp.json" if role == "timestamp" else f"{hub.version}.{role}.json"
    path = hub.base("director") + name
    hub.files[path] = altered(hub.files[path], [hub.keys["image"].by_role[role]], lambda _signed: None)
    device.refuses("metadata_bad_signature")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.usefixtures("release")
def test_expired_director_metadata(device: Device, hub: StaticHub, role: str) -> None:
    name = "timestamp.json" if role == "timestamp" else f"{hub.version}.{role}.json"

    def expire(signed: Any) -> None:
        signed.expires = datetime.fromtimestamp(hub.now_s - 1, UTC)

    change(hub, "director", name, role, expire)
    device.refuses("metadata_expired")


@pytest.mark.parametrize("repository", ["director", "image"])
@pytest.mark.usefixtures("release")
def test_an_expired_root(device: Device, hub: StaticHub, repository: str) -> None:
    raw = hub.keys[repository].root(2, datetime.fromtimestamp(hub.now_s - 1, UTC))
    hub.files[f"{hub.base(repository)}2.root.json"] = raw
    device.refuses("metadata_expired")


@pytest.mark.usefixtures("release")
def test_an_older_timestamp_than_before(device: Device, hub: StaticHub) -> None:
    old = dict(hub.files)
    device.verify()
    hub.instruct(targets_by_path(TEAM, hub.publish("app", 2, PARTS)))
    device.verify()
    hub.files |= old
    device.refuses("metadata_rollback")


@pytest.mark.usefixtures("release")
def test_an_older_timestamp_that_names_the_same_snapshot(device: Device, hub: StaticHub) -> None:
    old = dict(hub.files)

    def newer(signed: Any) -> None:
        signed.version += 1

    change(hub, "director", "timestamp.json", "timestamp", newer)
    device.verify()
    hub.files |= old
    device.refuses("metadata_rollback")


@pytest.mark.usefixtures("release")
def test_a_snapshot_that_forgets_a_team(device: Device, hub: StaticHub) -> None:
    device.verify()
    hub.sign_image()
    number = hub._image_version
    change(
        hub,
        "image",
        f"{number}.snapshot.json",
        "snapshot",
        lambda signed: signed.meta.pop(f"team-{TEAM}.json"),
    )
    device.refuses("metadata_rollback")


@pytest.mark.usefixtures("release")
def test_a_snapshot_that_takes_a_team_back(device: Device, hub: StaticHub) -> None:
    device.verify()
    hub.sign_image()

    def back(signed: Any) -> None:
        signed.meta[f"team-{TEAM}.json"] = MetaFile(1)

    change(hub, "image", f"{hub._image_version}.snapshot.json", "snapshot", back)
    device.refuses("metadata_rollback")


@pytest.mark.usefixtures("release")
def test_another_snapshot_than_the_timestamp_names(device: Device, hub: StaticHub) -> None:
    base, number = hub.base("image"), hub._image_version
    hub.files[f"{base}{number}.snapshot.json"] = hub.files[f"{base}{number - 1}.snapshot.json"]
    device.refuses("metadata_mismatch")


@pytest.mark.usefixtures("release")
def test_another_snapshot_than_the_timestamp_names_when_one_is_known(device: Device, hub: StaticHub) -> None:
    device.verify()
    hub.sign_image()
    hub.sign_image()
    base, number = hub.base("image"), hub._image_version
    hub.files[f"{base}{number}.snapshot.json"] = hub.files[f"{base}{number - 1}.snapshot.json"]
    device.refuses("metadata_mismatch")


@pytest.mark.usefixtures("release")
def test_a_delegated_role_that_the_snapshot_does_not_list(device: Device, hub: StaticHub) -> None:
    number = hub._image_version
    change(hub, "image", f"{number}.snapshot.json", "snapshot", lambda signed: signed.meta.pop(f"team-{TEAM}.json"))
    device.refuses("metadata_mismatch")


@pytest.mark.usefixtures("release")
def test_one_of_two_team_signatures(device: Device, hub: StaticHub) -> None:
    path = f"{hub.base('image')}{hub._image_version}.team-{TEAM}.json"
    hub.files[path] = altered(hub.files[path], hub.team[:1], lambda _signed: None)
    device.refuses("metadata_bad_signature")


@pytest.mark.usefixtures("release")
def test_the_same_signature_twice(device: Device, hub: StaticHub) -> None:
    path = f"{hub.base('image')}{hub._image_version}.team-{TEAM}.json"
    document = json.loads(altered(hub.files[path], hub.team[:1], lambda _signed: None))
    document["signatures"] *= 2
    hub.files[path] = json.dumps(document).encode()
    device.refuses("metadata_bad_signature")


@pytest.mark.parametrize("raw", [b"", b"null", b"{}", b"[" * 100_000, b"\xff" * 100, b'{"signed":{},"signatures":[]}'])
@pytest.mark.usefixtures("release")
def test_bytes_that_are_no_metadata(device: Device, hub: StaticHub, raw: bytes) -> None:
    hub.files[hub.base("director") + "timestamp.json"] = raw
    device.refuses("metadata_malformed")


def test_a_target_that_nobody_signed(device: Device, hub: StaticHub, release: ReleaseManifest) -> None:
    evil = {f"{TEAM}/x/1/y": target_file(f"{TEAM}/x/1/y", 1, "ab" * 32, _custom())}
    hub.instruct(targets_by_path(TEAM, release) | evil)
    device.refuses("target_unknown")


@pytest.mark.parametrize(
    "edit",
    [
        {"length": 999},
        {"sha256": "ab" * 32},
        {"custom": {"release_counter": 9}},
        {"custom": {"hardware": ["any"]}},
        {"custom": {"type": "directory"}},
    ],
)
def test_a_target_about_which_the_two_disagree(
    device: Device, hub: StaticHub, release: ReleaseManifest, edit: dict[str, Any]
) -> None:
    targets = targets_by_path(TEAM, release)
    path = f"{TEAM}/app/1.0.0/params"
    genuine = targets[path]
    assert genuine.custom is not None
    targets[path] = target_file(
        path,
        edit.get("length", genuine.length),
        edit.get("sha256", genuine.hashes["sha256"]),
        genuine.custom | edit.get("custom", {}),
    )
    hub.instruct(targets)
    device.refuses("director_image_mismatch")


@pytest.mark.parametrize("custom", [None, 7, {}, {"product": "app"}, {"product": "../x", "version": "1"}])
def test_a_target_without_a_proper_description(
    device: Device, hub: StaticHub, release: ReleaseManifest, custom: object
) -> None:
    targets = targets_by_path(TEAM, release)
    path = next(iter(targets))
    targets[path] = target_file(path, 1, "ab" * 32, custom)
    hub.instruct(targets)
    device.refuses("metadata_malformed")


def test_a_target_without_a_sha256(device: Device, hub: StaticHub, release: ReleaseManifest) -> None:
    targets = targets_by_path(TEAM, release)
    path = next(iter(targets))
    targets[path].hashes = {"sha512": "ab" * 64}
    hub.instruct(targets)
    device.refuses("metadata_malformed")


def test_a_manifest_that_is_none(device: Device, hub: StaticHub, release: ReleaseManifest) -> None:
    manifest = targets_by_path(TEAM, release)[f"{TEAM}/app/1.0.0/release.json"]
    device.hub.blobs[manifest.hashes["sha256"]] = b"{}"
    device.refuses("manifest_invalid")
    assert hub.blobs


@pytest.mark.usefixtures("release")
def test_a_metadata_file_that_is_not_there(device: Device, hub: StaticHub) -> None:
    del hub.files[f"{hub.base('image')}{hub._image_version}.snapshot.json"]
    device.refuses("metadata_missing", InstallError)


@pytest.mark.usefixtures("release")
def test_a_state_folder_without_its_root(device: Device) -> None:
    device.folders["image"].remove("root")
    device.refuses("root_missing", SettingsError)


# -- delegations -----------------------------------------------------------------------------------------------------


def delegate(hub: StaticHub, depth: int, target: str) -> None:
    """Put a chain of roles under the top-level targets; the last one holds the release."""
    signer = hub.team[0]
    key = signer.public_key
    names = [f"hop-{number}" for number in range(depth)]
    base = hub.base("image")
    number = hub._image_version
    team = Metadata[Targets].from_bytes(hub.files[f"{base}{number}.team-{TEAM}.json"]).signed

    def role(name: str) -> Delegations:
        return Delegations(
            {key.keyid: key}, {name: DelegatedRole(name, [key.keyid], 1, terminating=False, paths=["nav/*/*/*"])}
        )

    for index, name in enumerate(names):
        last = index == depth - 1
        following = None if last else role(names[index + 1])
        signed = Targets(expires=in_days(1), targets=team.targets if last else {}, delegations=following)
        hub.files[f"{base}1.{name}.json"] = seal(signed, [signer])

    def top(signed: Any) -> None:
        signed.delegations = role(names[0])

    def snapshot(signed: Any) -> None:
        for name in names:
            signed.meta[f"{name}.json"] = MetaFile(1)

    change(hub, "image", "1.targets.json", "targets", top)
    change(hub, "image", f"{number}.snapshot.json", "snapshot", snapshot)
    assert target


def test_as_many_delegations_as_are_allowed(device: Device, hub: StaticHub, release: ReleaseManifest) -> None:
    delegate(hub, MAX_DELEGATIONS, release.product)
    assert device.verify().items


def test_one_delegation_more(device: Device, hub: StaticHub, release: ReleaseManifest) -> None:
    delegate(hub, MAX_DELEGATIONS + 1, release.product)
    device.refuses("delegation_too_deep")


@pytest.mark.usefixtures("release")
def test_delegations_in_a_circle_end(device: Device, hub: StaticHub) -> None:
    delegate(hub, 2, "app")
    signer = hub.team[0]
    key = signer.public_key
    back = DelegatedRole("hop-0", [key.keyid], 1, terminating=False, paths=["nav/*/*/*"])
    signed = Targets(expires=in_days(1), delegations=Delegations({key.keyid: key}, {"hop-0": back}))
    hub.files[f"{hub.base('image')}1.hop-1.json"] = seal(signed, [signer])
    device.refuses("target_unknown")


def test_a_team_cannot_sign_outside_its_paths(device: Device, hub: StaticHub) -> None:
    manifest = hub.publish("app", 1, PARTS)
    number = hub._image_version
    elsewhere = {path.replace("nav/", "other/", 1): file for path, file in targets_by_path(TEAM, manifest).items()}
    team = Targets(version=number, expires=in_days(7), targets=elsewhere)
    hub.files[f"{hub.base('image')}{number}.team-{TEAM}.json"] = seal(team, hub.team)
    hub.instruct(elsewhere)
    device.refuses("target_unknown")


# -- time, and the recovery from stolen keys --------------------------------------------------------------------------


@pytest.mark.usefixtures("release")
def test_the_signed_time_becomes_the_floor(device: Device, hub: StaticHub) -> None:
    device.verify()
    assert device.floor_s == hub.now_s


@pytest.mark.usefixtures("release")
def test_a_replay_expires_by_the_time_that_passed_in_this_boot(device: Device, hub: StaticHub) -> None:
    device.verify()
    device.clock.sleep(hub.life.total_seconds() + 1)
    device.refuses("metadata_expired")


@pytest.mark.usefixtures("release")
def test_time_of_another_boot_is_not_counted(device: Device, hub: StaticHub) -> None:
    """Another boot may be of yesterday or of last year: how long it lasted says nothing."""
    device.verify()
    device.clock.reboot()
    device.clock.sleep(2 * hub.life.total_seconds())
    assert device.verify()


@pytest.mark.usefixtures("release")
def test_an_older_signed_time_does_not_lower_the_floor(device: Device, hub: StaticHub) -> None:
    device.verify()
    before = device.floor_s
    hub.now_s -= 3600
    hub.instruct(targets_by_path(TEAM, hub.publish("app", 2, PARTS)))
    device.verify()
    assert device.floor_s >= before


@pytest.mark.usefixtures("release")
def test_a_refused_instruction_moves_neither_the_floor_nor_the_versions(device: Device, hub: StaticHub) -> None:
    """Stolen director keys that only achieve refusals leave the way free for the honest hub."""
    device.verify()
    before, version, now_s = device.floor_s, hub.version, hub.now_s
    hub.now_s += 3600
    hub.instruct({"nav/x/1/y": target_file("nav/x/1/y", 1, "ab" * 32, _custom())}, version=10**6)
    device.refuses("target_unknown")
    assert device.floor_s == before
    hub.now_s, hub.version = now_s, version
    hub.instruct(targets_by_path(TEAM, hub.publish("app", 2, PARTS)))
    assert device.verify().action == hub.action


def _custom() -> dict[str, Any]:
    return {"product": "x", "version": "1", "release_counter": 1, "hardware": ["any"], "component": "y", "type": "file"}


@pytest.mark.usefixtures("release")
def test_stolen_director_keys_alone_cannot_set_the_floor_to_2099(device: Device, hub: StaticHub) -> None:
    """The same time counts for the image repository, whose metadata have expired by then: nothing is accepted."""
    device.verify()
    before = device.floor_s
    hub.now_s, hub.life = LATE_S, timedelta(days=365)
    hub.instruct(targets_by_path(TEAM, hub.publish("app", 2, PARTS)))
    device.refuses("metadata_expired")
    assert device.floor_s == before


@pytest.mark.usefixtures("release")
def test_a_floor_in_2099_ends_with_the_key_that_set_it(device: Device, hub: StaticHub) -> None:
    """Should it come to that, with every online key stolen: people sign a new director root."""
    keyids = [hub.keys["director"].by_role["timestamp"].public_key.keyid]
    floor = trusted_time.TimeFloor(LATE_S, device.clock.boot, 0, tuple(keyids))
    device.folders["director"].write("time_floor", trusted_time.encode_floor(floor))
    device.refuses("metadata_expired")
    hub.rotate("director", "timestamp", "snapshot", "targets")
    hub.instruct(targets_by_path(TEAM, hub.publish("app", 2, PARTS)))
    assert device.verify().action == hub.action
    assert device.floor_s == hub.now_s


@pytest.mark.parametrize("replaced", [("timestamp", "snapshot"), ("timestamp",), ("snapshot",)])
@pytest.mark.parametrize("repository", ["director", "image"])
@pytest.mark.usefixtures("release")
def test_fast_forward_and_recovery(device: Device, hub: StaticHub, repository: str, replaced: tuple[str, ...]) -> None:
    device.verify()
    if repository == "director":
        version = hub.version
        hub.instruct(targets_by_path(TEAM, hub.publish("app", 2, PARTS)), version=2**30)
        device.verify()
        hub.version = version
    else:
        version = hub._image_version
        hub.sign_image(version=2**30)
        hub.assign(hub.publish("app", 2, PARTS))
        device.verify()
        hub._image_version = version
    hub.assign(hub.publish("app", 3, PARTS))
    device.refuses("metadata_rollback")
    hub.rotate(repository, *replaced)
    hub.assign(hub.publish("app", 4, PARTS))
    assert device.verify().action == hub.action


@pytest.mark.parametrize("repository", ["director", "image"])
@pytest.mark.usefixtures("release")
def test_a_new_snapshot_key_alone_resets_what_the_old_one_vouched_for(
    device: Device, hub: StaticHub, repository: str
) -> None:
    device.verify()
    hub.rotate(repository, "snapshot")
    hub.assign(hub.publish("app", 2, PARTS))
    device.verify()
    stored = device.folders[repository].read("root")
    assert stored == hub.files[f"{hub.base(repository)}2.root.json"]


@pytest.mark.usefixtures("release")
def test_a_root_that_its_predecessor_did_not_sign(device: Device, hub: StaticHub) -> None:
    hub.files[f"{hub.base('director')}2.root.json"] = hub.keys["image"].root(2, in_days(365))
    device.refuses("metadata_bad_signature")
    first = device.folders["director"].read("root")
    assert first is not None
    assert hashlib.sha256(first).hexdigest() == hub.told().director_root_sha256


@pytest.mark.usefixtures("release")
def test_a_root_that_skips_a_version(device: Device, hub: StaticHub) -> None:
    hub.files[f"{hub.base('director')}2.root.json"] = hub.keys["director"].root(3, in_days(365))
    device.refuses("metadata_rollback")

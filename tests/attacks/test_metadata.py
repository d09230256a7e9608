"""Attacks on TUF metadata: old, expired, mixed, under-signed, too deep; and what stolen keys reach."""

import time
from pathlib import Path
from typing import Any

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, Targets

from firmware_schemas.limits import MAX_DELEGATIONS
from tests.attacks.conftest import PRODUCT, Scene, payloads
from tests.support.fleet import Fleet, start_fleet
from tests.support.forge import altered, in_days, say_changed, seal
from tests.support.mitm import Answer, Mitm, Request
from tests.support.publisher import target_file, targets_by_path


def director_path(scene: Scene, name: str) -> str:
    return f"/tuf/director/{scene.craft.device_id}/metadata/{name}"


def record_director(scene: Scene) -> dict[str, bytes]:
    """Everything that the director says to this craft now, by path."""
    found = scene.fleet.director_files_by_name(scene.craft)
    return {director_path(scene, name): raw for name, raw in found.items()}


def replay(mitm: Mitm, recorded: dict[str, bytes]) -> None:
    def rule(request: Request) -> Answer | None:
        raw = recorded.get(request.path)
        return (200, {"content-type": "application/json"}, raw) if raw is not None else None

    mitm.lie(rule)


def test_rollback_of_director_metadata(scene: Scene) -> None:
    """An old timestamp, genuinely signed, is played again after a newer one was seen."""
    recorded = record_director(scene)
    scene.assign_new()
    assert scene.craft.run_once().code == 0
    before = scene.craft.unchanged()
    replay(scene.mitm, recorded)
    say_changed(scene.mitm, 77)
    outcome = scene.craft.run_once()
    assert outcome.code == 5, outcome
    assert "metadata_rollback" in str(scene.craft.status())
    assert scene.craft.unchanged() == before


def test_rollback_of_image_metadata(scene: Scene) -> None:
    """The same with the image repository, which would hide newer releases and revocations."""
    recorded = scene.fleet.image_timestamp()
    scene.fleet.publisher.publish("bystander", f"1.0.{int(time.time()) % 1000}", payloads("9.9.9"))
    scene.assign_new()
    assert scene.craft.run_once().code == 0
    scene.fleet.publisher.assign(f"{PRODUCT}@2.0.0", scene.craft.device_id)
    before = scene.craft.unchanged()
    scene.mitm.replace("/tuf/image/metadata/timestamp.json", recorded)
    say_changed(scene.mitm, 78)
    outcome = scene.craft.run_once()
    assert outcome.code == 5, outcome
    assert "metadata_rollback" in str(scene.craft.status())
    assert scene.craft.unchanged() == before


def test_freeze(tmp_path: Path) -> None:
    """The craft is kept on old instructions by playing them again: they expire, although no clock is trusted."""
    with start_fleet(tmp_path / "fleet", SDX_DIRECTOR_LIFE_S="6") as fleet, Mitm(fleet.url) as mitm:
        old = fleet.publisher.publish(PRODUCT, "1.0.0", payloads("1.0.0"))
        new = fleet.publisher.publish(PRODUCT, "2.0.0", payloads("2.0.0"))
        craft = fleet.new_craft(tmp_path / "craft", mitm.url)
        fleet.publisher.assign(f"{PRODUCT}@1.0.0", craft.device_id)
        assert craft.run_once().code == 0
        scene = Scene(fleet, craft, mitm, old, new)
        replay(mitm, record_director(scene))
        say_changed(mitm, 99)
        time.sleep(7)
        scene.assert_refused("metadata_expired")
        scene.assert_recovers()


def test_mix_and_match_of_metadata(scene: Scene) -> None:
    """The snapshot says one version of the team's metadata, the attacker serves another under its name."""
    old_team = scene.fleet.image_file("1.team-nav.json")
    # A version that the craft does not have yet: what it has verified before, it does not ask for again.
    scene.fleet.publisher.publish("bystander", f"2.0.{int(time.time()) % 1000}", payloads("9.9.9"))
    version = Metadata[Targets].from_bytes(scene.fleet.image_file("team-nav")).signed.version
    scene.assign_new()
    scene.assert_refused(
        "metadata_mismatch", lambda: scene.mitm.replace(f"/tuf/image/metadata/{version}.team-nav.json", old_team)
    )
    scene.assert_recovers()


def forged_team(scene: Scene, signers: list[Any]) -> dict[str, bytes]:
    """Team metadata with the attacker's release, and a snapshot and timestamp that vouch for it.

    The attacker has the online keys of the image repository too, so that only the team's threshold stands.
    """
    evil = scene.fleet.publisher.manifest(PRODUCT, "7.7.7", payloads("7.7.7"))
    current = Metadata[Targets].from_bytes(scene.fleet.image_file("team-nav")).signed
    version = current.version + 1000
    current.version = version
    for path, file in targets_by_path("nav", evil).items():
        current.targets[path] = target_file(path, file.length, file.hashes["sha256"], file.custom)

    def snapshot(signed: Any) -> None:
        signed.version += 1000
        signed.meta["team-nav.json"] = MetaFile(version)

    raw_snapshot = altered(scene.fleet.image_file("snapshot"), [scene.fleet.image_signers["snapshot"]], snapshot)
    snapshot_version = Metadata.from_bytes(raw_snapshot).signed.version

    def timestamp(signed: Any) -> None:
        signed.version += 1000
        signed.snapshot_meta = MetaFile(snapshot_version)

    raw_timestamp = altered(scene.fleet.image_timestamp(), [scene.fleet.image_signers["timestamp"]], timestamp)
    base = "/tuf/image/metadata"
    scene.stolen_director.serve(scene.mitm, targets_by_path("nav", evil))
    return {
        f"{base}/timestamp.json": raw_timestamp,
        f"{base}/{snapshot_version}.snapshot.json": raw_snapshot,
        f"{base}/{version}.team-nav.json": seal(current, signers),
    }


def test_one_team_key_stolen(scene: Scene) -> None:
    """One person's key, with every online key of both repositories, is still no release."""
    forged = forged_team(scene, [scene.fleet.team_signers[0]])
    scene.assert_refused("metadata_bad_signature", lambda: replay(scene.mitm, forged))


def test_key_below_threshold(scene: Scene) -> None:
    """The same key twice counts once, on the craft."""
    signer = scene.fleet.team_signers[0]
    forged = forged_team(scene, [signer])
    path = next(path for path in forged if "team-nav" in path)
    metadata = Metadata.from_bytes(forged[path])
    import json

    document = json.loads(metadata.to_bytes())
    document["signatures"] = document["signatures"] * 2
    forged[path] = json.dumps(document).encode()
    scene.assert_refused("metadata_bad_signature", lambda: replay(scene.mitm, forged))


def test_key_below_threshold_at_the_hub(scene: Scene) -> None:
    """One signature: the hub keeps it waiting, says whose is missing, and no device sees it."""
    publisher = scene.fleet.publisher
    parts = payloads("8.0.0")
    manifest = publisher.manifest("waiting", "8.0.0", parts)
    with publisher.client() as client:
        for part in parts:
            publisher.upload(client, part.raw())
        answer = publisher.put(client, manifest, publisher.proposal(client, manifest, publisher.signers[:1]))
        assert answer.json()["state"] == "waiting"
        assert len(answer.json()["missing"]) == 2
        assert answer.json()["threshold"] == 2
        refused = client.post(
            "/api/v1/assignments", json={"release": "waiting@8.0.0", "devices": [scene.craft.device_id]}
        )
        assert refused.status_code >= 400
        assert refused.json()["code"] == "release_not_published"
    team = Metadata[Targets].from_bytes(scene.fleet.image_file("team-nav")).signed
    assert not [path for path in team.targets if path.startswith("nav/waiting/")]


def test_deep_delegation_loop(scene: Scene) -> None:
    """Delegations that lead to each other without an end: the visit is bounded."""
    depth = MAX_DELEGATIONS + 8
    signer = scene.fleet.team_signers[0]
    key = signer.public_key
    names = [f"hop-{number}" for number in range(depth)]

    def hop(index: int) -> bytes:
        following = names[(index + 1) % depth]
        role = DelegatedRole(following, [key.keyid], 1, terminating=False, paths=["nav/*/*/*"])
        targets = Targets(version=1, expires=in_days(1), delegations=Delegations({key.keyid: key}, {following: role}))
        return seal(targets, [signer])

    def top(signed: Any) -> None:
        signed.version += 1000
        role = DelegatedRole(names[0], [key.keyid], 1, terminating=False, paths=["nav/*/*/*"])
        signed.delegations = Delegations({key.keyid: key}, {names[0]: role})

    raw_top = altered(scene.fleet.image_file("targets"), scene.fleet.targets_signers[:2], top)
    top_version = Metadata.from_bytes(raw_top).signed.version

    def snapshot(signed: Any) -> None:
        signed.version += 1000
        signed.meta["targets.json"] = MetaFile(top_version)
        for name in names:
            signed.meta[f"{name}.json"] = MetaFile(1)

    raw_snapshot = altered(scene.fleet.image_file("snapshot"), [scene.fleet.image_signers["snapshot"]], snapshot)
    snapshot_version = Metadata.from_bytes(raw_snapshot).signed.version

    def timestamp(signed: Any) -> None:
        signed.version += 1000
        signed.snapshot_meta = MetaFile(snapshot_version)

    raw_timestamp = altered(scene.fleet.image_timestamp(), [scene.fleet.image_signers["timestamp"]], timestamp)
    base = "/tuf/image/metadata"
    forged = {
        f"{base}/timestamp.json": raw_timestamp,
        f"{base}/{snapshot_version}.snapshot.json": raw_snapshot,
        f"{base}/{top_version}.targets.json": raw_top,
    } | {f"{base}/1.{name}.json": hop(index) for index, name in enumerate(names)}
    scene.stolen_director.serve(scene.mitm, targets_by_path("nav", scene.new))
    scene.assert_refused("delegation_too_deep", lambda: replay(scene.mitm, forged))


def test_revoked_key(tmp_path: Path) -> None:
    """A person leaves: the new top-level targets metadata no longer lists their key, and it counts for nobody."""
    with start_fleet(tmp_path / "fleet") as fleet, Mitm(fleet.url) as mitm:
        old = fleet.publisher.publish(PRODUCT, "1.0.0", payloads("1.0.0"))
        craft = fleet.new_craft(tmp_path / "craft", mitm.url)
        fleet.publisher.assign(f"{PRODUCT}@1.0.0", craft.device_id)
        assert craft.run_once().code == 0
        gone, stays, new_hand = fleet.team_signers[0], fleet.team_signers[1], fleet.team_signers[2]

        fleet.revoke_team_key("team-nav", gone.public_key.keyid)

        # The hub: a release signed by the revoked key and a good one stays below the threshold.
        publisher = fleet.publisher
        parts = payloads("2.0.0")
        manifest = publisher.manifest(PRODUCT, "2.0.0", parts)
        with publisher.client() as client:
            for part in parts:
                publisher.upload(client, part.raw())
            refused = publisher.put(client, manifest, publisher.proposal(client, manifest, [gone, stays]))
            assert refused.status_code == 422, refused.text
            assert refused.json()["code"] == "signature_invalid"
            # The remaining two still publish.
            done = publisher.put(client, manifest, publisher.proposal(client, manifest, [stays, new_hand]))
            assert done.json()["state"] == "published", done.text

        # The craft: with every online key stolen, the revoked key still does not reach it.
        scene = Scene(fleet, craft, mitm, old, manifest)
        publisher.assign(f"{PRODUCT}@2.0.0", craft.device_id)
        forged = forged_team(scene, [gone, stays])
        scene.assert_refused("metadata_bad_signature", lambda: replay(mitm, forged))


def test_fast_forward_and_recovery_by_root_rotation(tmp_path: Path) -> None:
    """Stolen online keys push the versions far ahead; after a root rotation the craft follows the honest ones again."""
    with start_fleet(tmp_path / "fleet") as fleet, Mitm(fleet.url) as mitm:
        old = fleet.publisher.publish(PRODUCT, "1.0.0", payloads("1.0.0"))
        new = fleet.publisher.publish(PRODUCT, "2.0.0", payloads("2.0.0"))
        craft = fleet.new_craft(tmp_path / "craft", mitm.url)
        fleet.publisher.assign(f"{PRODUCT}@1.0.0", craft.device_id)
        assert craft.run_once().code == 0
        scene = Scene(fleet, craft, mitm, old, new)

        def ahead(signed: Any) -> None:
            signed.version = 2**31

        far = altered(fleet.image_timestamp(), [fleet.image_signers["timestamp"]], ahead)
        mitm.replace("/tuf/image/metadata/timestamp.json", far)
        scene.stolen_director.serve(mitm, targets_by_path("nav", old), version=2**30)
        craft.run_once()
        mitm.rules.clear()

        # The craft is stuck now, and says so; it runs what it ran.
        fleet.publisher.assign(f"{PRODUCT}@2.0.0", craft.device_id)
        scene.assert_refused("metadata_rollback")

        fleet.rotate_online_keys("image")
        fleet.rotate_online_keys("director")
        scene.assert_recovers()
        assert isinstance(fleet, Fleet)

"""Attacks on what the device is told to run: the director's side, and the set of components."""

from tests.attacks.conftest import PRODUCT, Scene, payloads
from tests.support.forge import say_changed
from tests.support.mitm import Mitm
from tests.support.publisher import Payload, target_file, targets_by_path


def test_arbitrary_software(scene: Scene) -> None:
    """The director is stolen and names a payload of the attacker: no team ever signed it."""
    evil = payloads("6.6.6")
    manifest = scene.fleet.publisher.manifest(PRODUCT, "6.6.6", evil)
    raw_by_digest = {part.component().sha256: part.raw() for part in evil}
    for digest, raw in raw_by_digest.items():
        scene.mitm.replace(f"/blobs/{digest}", raw)
    scene.assert_refused(
        "target_unknown", lambda: scene.stolen_director.serve(scene.mitm, targets_by_path("nav", manifest))
    )
    scene.assert_recovers()


def test_rollback_of_a_release(scene: Scene) -> None:
    """A genuine release, but an older one than the craft has had: the counter is below the floor."""
    scene.assign_new()
    assert scene.craft.run_once().code == 0
    before = scene.craft.unchanged()
    assert before["floors"] == {PRODUCT: 2_000_000}
    scene.stolen_director.serve(scene.mitm, targets_by_path("nav", scene.old))
    outcome = scene.craft.run_once()
    assert outcome.code == 5, outcome
    assert "release_rollback" in str(scene.craft.status()["last_result"])
    assert scene.craft.unchanged() == before


def test_partial_bundle(scene: Scene) -> None:
    """One of two components is left out: the set that the team signed is not complete."""
    targets = targets_by_path("nav", scene.new)
    del targets["nav/mavsdk/2.0.0/params"]
    scene.assert_refused("bundle_incomplete", lambda: scene.stolen_director.serve(scene.mitm, targets))
    scene.assert_recovers()


def test_partial_bundle_without_its_manifest(scene: Scene) -> None:
    """The manifest is left out, so that nobody could tell what else belongs to it."""
    targets = targets_by_path("nav", scene.new)
    del targets["nav/mavsdk/2.0.0/release.json"]
    scene.assert_refused("bundle_incomplete", lambda: scene.stolen_director.serve(scene.mitm, targets))


def test_mix_and_match_of_components(scene: Scene) -> None:
    """Both components are genuine, but of two releases: together they were never signed."""
    old, new = targets_by_path("nav", scene.old), targets_by_path("nav", scene.new)
    mixed = {path: file for path, file in new.items() if not path.endswith("/params")}
    mixed |= {path: file for path, file in old.items() if path.endswith("/params")}
    scene.assert_refused("bundle_incomplete", lambda: scene.stolen_director.serve(scene.mitm, mixed))
    scene.assert_recovers()


def test_director_keys_stolen(scene: Scene) -> None:
    """With all of the director's online keys the attacker claims other content under a genuine name."""
    targets = targets_by_path("nav", scene.new)
    path = "nav/mavsdk/2.0.0/server"
    genuine = targets[path]
    targets[path] = target_file(path, 7, "ab" * 32, genuine.custom)
    scene.assert_refused("director_image_mismatch", lambda: scene.stolen_director.serve(scene.mitm, targets))
    scene.assert_recovers()


def test_director_keys_stolen_and_the_counter_raised(scene: Scene) -> None:
    """The same with the custom part: an old release that pretends to be new."""
    targets = targets_by_path("nav", scene.old)
    for path, file in list(targets.items()):
        custom = dict(file.custom or {}, release_counter=9_000_000)
        targets[path] = target_file(path, file.length, file.hashes["sha256"], custom)
    scene.assert_refused("director_image_mismatch", lambda: scene.stolen_director.serve(scene.mitm, targets))


def test_wrong_hardware(scene: Scene) -> None:
    """A genuine release for another board. The hub does not assign it, and the craft would not take it."""
    other = [Payload("server", {"VERSION": b"3.0.0"})]
    manifest = scene.fleet.publisher.publish("otherboard", "1.0.0", other, hardware=("stm32h7",))
    answer = scene.fleet.publisher.assign("otherboard@1.0.0", scene.craft.device_id)
    assert [refused["code"] for refused in answer["refused"]] == ["wrong_hardware"]
    scene.assert_refused(
        "wrong_hardware", lambda: scene.stolen_director.serve(scene.mitm, targets_by_path("nav", manifest))
    )


def test_wrong_devices_instructions(scene: Scene) -> None:
    """Genuine instructions that the hub signed for another craft."""
    with Mitm(scene.fleet.url) as other_mitm:
        other = scene.fleet.new_craft(scene.craft.state.parent / "other", other_mitm.url)
    scene.fleet.publisher.assign(f"{PRODUCT}@2.0.0", other.device_id)
    theirs = scene.fleet.director_files(other)
    timestamp, snapshot, targets = theirs["timestamp.json"], theirs["snapshot.json"], theirs["targets.json"]
    base = f"/tuf/director/{scene.craft.device_id}/metadata"

    def attack() -> None:
        # Their versions are lower than ours, which alone would be refused: give the replay its best chance.
        forged = scene.stolen_director.files(targets_by_path("nav", scene.new), version=500, device=other.device_id)
        assert timestamp and snapshot and targets
        say_changed(scene.mitm, 500)
        for name, raw in forged.items():
            scene.mitm.replace(f"{base}/{name}", raw)

    scene.assert_refused("wrong_device", attack)
    scene.assert_recovers()


def test_one_component_twice(scene: Scene) -> None:
    """Two releases that both bring a component of the same name."""
    twin = scene.fleet.publisher.publish("twin", "1.0.0", [Payload("server", {"VERSION": b"twin"})])
    targets = targets_by_path("nav", scene.new) | targets_by_path("nav", twin)
    scene.assert_refused("component_twice", lambda: scene.stolen_director.serve(scene.mitm, targets))

"""Going back: as far as two people have signed that a craft may, and not a counter further, whoever asks."""

import msgspec
import pytest

from firmware_schemas.release import ReleaseManifest, encode_manifest
from tests.attacks.conftest import PRODUCT, Scene, payloads
from tests.support.fleet import Fleet
from tests.support.publisher import targets_by_path


@pytest.fixture(scope="module")
def ancient(fleet: Fleet) -> ReleaseManifest:
    return fleet.publisher.publish(PRODUCT, "0.9.0", payloads("0.9.0"))


@pytest.fixture(scope="module")
def way_back(fleet: Fleet, ancient: ReleaseManifest) -> ReleaseManifest:
    """2.1.0, whose signed manifest lets a craft go back to 1.0.0 and no further."""
    return fleet.publisher.publish(PRODUCT, "2.1.0", payloads("2.1.0"), revert_counter=1_000_000)


def go_to(scene: Scene, version: str) -> int:
    scene.mitm.rules.clear()
    scene.fleet.publisher.assign(f"{PRODUCT}@{version}", scene.craft.device_id)
    return scene.craft.run_once().code


def versions(scene: Scene) -> set[str]:
    return {version for version, _ in scene.craft.unchanged()["versions"].values()}


def test_a_release_that_allows_it_is_gone_back_from(scene: Scene, way_back: ReleaseManifest) -> None:
    assert go_to(scene, "2.1.0") == 0
    assert scene.craft.unchanged()["floors"] == {PRODUCT: 1_000_000}
    assert go_to(scene, "1.0.0") == 0
    assert versions(scene) == {"1.0.0"}
    assert scene.craft.unchanged()["floors"] == {PRODUCT: 1_000_000}
    assert go_to(scene, "2.1.0") == 0, "and forth again"
    assert versions(scene) == {"2.1.0"}


def test_a_release_that_does_not_allow_it_is_not_gone_back_from(scene: Scene) -> None:
    """Not even the honest hub can order it."""
    assert go_to(scene, "2.0.0") == 0
    before = scene.craft.unchanged()
    assert before["floors"] == {PRODUCT: 2_000_000}
    assert go_to(scene, "1.0.0") == 5
    assert scene.craft.status()["last_result"]["code"] == "release_rollback"
    assert scene.craft.unchanged() == before


def test_stolen_director_keys_do_not_reach_below_the_reviewed_floor(
    scene: Scene, ancient: ReleaseManifest, way_back: ReleaseManifest
) -> None:
    """A genuine release below what the signed manifest allows to go back to."""
    assert go_to(scene, "2.1.0") == 0
    scene.assert_refused(
        "release_rollback", lambda: scene.stolen_director.serve(scene.mitm, targets_by_path("nav", ancient))
    )


def test_a_floor_once_reached_stays_whatever_a_later_release_allows(scene: Scene, fleet: Fleet) -> None:
    """2.0.0 allowed no way back; a later release that allows one for others opens none here."""
    fleet.publisher.publish(PRODUCT, "2.2.0", payloads("2.2.0"), revert_counter=1_000_000)
    assert go_to(scene, "2.0.0") == 0
    assert go_to(scene, "2.2.0") == 0
    before = scene.craft.unchanged()
    assert before["floors"] == {PRODUCT: 2_000_000}
    scene.stolen_director.serve(scene.mitm, targets_by_path("nav", scene.old))
    assert scene.craft.run_once().code == 5
    assert scene.craft.status()["last_result"]["code"] == "release_rollback"
    assert scene.craft.unchanged() == before


def test_a_way_back_that_nobody_signed(scene: Scene, fleet: Fleet) -> None:
    """Link and director are the attacker's: a manifest is given out, just as long, that allows to go further back."""
    signed = fleet.publisher.publish(PRODUCT, "2.3.0", payloads("2.3.0"), revert_counter=2_000_000)
    targets = targets_by_path("nav", signed)
    genuine = targets["nav/mavsdk/2.3.0/release.json"].hashes["sha256"]
    forged = encode_manifest(msgspec.structs.replace(signed, revert_counter=1_000_000))
    assert len(forged) == len(encode_manifest(signed))

    def attack() -> None:
        scene.mitm.replace(f"/blobs/{genuine}", forged)
        scene.stolen_director.serve(scene.mitm, targets)

    scene.assert_refused("payload_digest_mismatch", attack)

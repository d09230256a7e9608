"""A wrong clock: 1970 after an empty battery, 2099 by a spoofed receiver. Trust does not ask it."""

import shutil

import pytest

from tests.attacks.conftest import Scene

faketime = shutil.which("faketime")


@pytest.mark.skipif(faketime is None, reason="faketime is not installed (apt install faketime)")
@pytest.mark.parametrize("date", ["1970-01-02 00:00:00", "2099-12-31 23:59:59"])
def test_clock_set_to_1970_and_to_2099(scene: Scene, date: str) -> None:
    """An honest update goes through, and no floor is moved to a place from which nothing is ever fresh again."""
    assert faketime is not None
    scene.craft.wrapper = (faketime, "-f", f"@{date}")
    scene.craft.environment = {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    scene.assign_new()
    outcome = scene.craft.run_once()
    assert outcome.code == 0, (outcome, scene.craft.status())
    assert {version for version, _ in scene.craft.unchanged()["versions"].values()} == {"2.0.0"}
    scene.craft.wrapper = ()
    newer = scene.fleet.publish_next()
    scene.fleet.publisher.assign(newer, scene.craft.device_id)
    outcome = scene.craft.run_once()
    assert outcome.code == 0, (outcome, scene.craft.status())
    assert f"mavsdk@{scene.craft.status()['components'][0]['version']}" == newer


@pytest.mark.skipif(faketime is None, reason="faketime is not installed (apt install faketime)")
@pytest.mark.parametrize("date", ["1970-01-02 00:00:00", "2099-12-31 23:59:59"])
def test_a_wrong_clock_does_not_help_an_attacker(scene: Scene, date: str) -> None:
    """With the clock wound back, expired instructions stay expired."""
    from tests.support.forge import in_days
    from tests.support.publisher import targets_by_path

    assert faketime is not None
    scene.craft.wrapper = (faketime, "-f", f"@{date}")
    scene.craft.environment = {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    scene.assert_refused(
        "metadata_expired",
        lambda: scene.stolen_director.serve(
            scene.mitm, targets_by_path("nav", scene.new), expires=in_days(-30), time_s=0
        ),
    )

"""Alarms at half of a role's life, long before a client refuses it."""

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata

from sdx_hub.persistence.database import Database
from sdx_hub.services.repositories.trust_alarms import expiries
from sdx_hub.trust import rotation
from tests.support.trust_hub import TrustHub, start_trust_hub
from tests.unit.sdx_hub.services.conftest import APPROVER, START, MovableClock


@pytest.fixture
async def hub(tmp_path: Path, database: Database, clock: MovableClock) -> TrustHub:
    return await start_trust_hub(database, clock, tmp_path, "nav", "pay")


def alarms(hub: TrustHub) -> set[str]:
    return {
        f"{each.repository}/{each.role}" for each in expiries(hub.image.store, hub.clock.now()) if each.half_life_passed
    }


async def test_every_role_is_there_and_the_first_to_expire_comes_first(hub: TrustHub, clock: MovableClock) -> None:
    found = expiries(hub.image.store, clock.now())
    assert {(each.repository, each.role, each.expires_at - START) for each in found} == {
        ("image", "timestamp", timedelta(days=1)),
        ("image", "snapshot", timedelta(days=7)),
        ("image", "team-nav", timedelta(days=180)),
        ("image", "team-pay", timedelta(days=180)),
        ("image", "fleet-config", timedelta(days=180)),
        ("image", "root", timedelta(days=365)),
        ("image", "targets", timedelta(days=365)),
        ("director", "root", timedelta(days=365)),
    }
    assert [each.role for each in found][:2] == ["timestamp", "snapshot"]
    assert not any(each.half_life_passed or each.expired for each in found)


async def test_half_of_a_life_is_an_alarm_and_a_new_version_ends_it(hub: TrustHub, clock: MovableClock) -> None:
    clock.move(days=90, seconds=-1)
    await hub.image.resign_if_due()
    assert alarms(hub) == set()
    clock.move(seconds=1)
    assert alarms(hub) == {"image/team-nav", "image/team-pay", "image/fleet-config"}
    anew = rotation.refreshed_team(await hub.targets("team-nav"), clock.now())
    await hub.image.push(APPROVER, [hub.people.sign(anew, "team-nav")])
    assert alarms(hub) == {"image/team-pay", "image/fleet-config"}
    clock.move(days=90)
    await hub.image.resign_if_due()
    expired = {each.role for each in expiries(hub.image.store, clock.now()) if each.expired}
    assert expired == {"team-pay", "fleet-config"}


async def test_a_hub_that_cannot_sign_raises_an_alarm_about_its_own(hub: TrustHub, clock: MovableClock) -> None:
    clock.move(hours=12)
    assert alarms(hub) == {"image/timestamp"}


async def test_a_team_that_left_is_not_missed(hub: TrustHub, clock: MovableClock) -> None:
    targets = await hub.targets()
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    for keyid in targets.delegations.roles.pop("team-pay").keyids:
        del targets.delegations.keys[keyid]
    targets.version += 1
    await hub.image.push(APPROVER, [hub.people.sign(Metadata(targets), "targets")])
    clock.move(days=91)
    await hub.image.resign_if_due()
    assert "image/team-pay" not in alarms(hub)

"""Whom a rollout offers its release to, when, and in place of what."""

from typing import Any

import pytest
from sqlalchemy import delete, insert
from sqlmodel import col

from firmware_schemas.release import Component, ReleaseManifest, encode_manifest
from sdx_hub.domain.rollout.policy import Limits
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import DeviceAttribute, InstalledComponent
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import DevicePin
from tests.unit.sdx_hub.services.conftest import MovableClock
from tests.unit.sdx_hub.services.rollouts.rolling import NEVER, Rolling

OLD, NEW, NEWER, CAMERA = "nav@1.0.0", "nav@2.0.0", "nav@3.0.0", "camera@1.0.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rolling:
    hub = Rolling(database, clock)
    for release in (OLD, NEW, NEWER, CAMERA):
        await hub.release(release)
    return hub


async def runs(hub: Rolling, serial: str, release: str) -> None:
    """What the device's inventory says."""
    product, _, version = release.partition("@")
    async with hub.database.unit_of_work() as uow:
        of_device = col(InstalledComponent.device_id) == hub.ids[serial]
        await uow.session.execute(delete(InstalledComponent).where(of_device))
        uow.session.add(
            InstalledComponent(
                device_id=hub.ids[serial],
                name="server",
                type="file",
                product=product,
                version=version,
                release_counter=int(version.replace(".", "")),
                sha256="ab" * 32,
            )
        )
        await uow.commit()


async def test_no_more_than_the_limits_are_under_way(hub: Rolling) -> None:
    serials = [f"S{number}" for number in range(9)]
    await hub.craft(*serials)
    async with hub.database.unit_of_work() as uow:
        sites = [(serial, f"site{index % 2}") for index, serial in enumerate(serials[:8])]
        rows = [{"device_id": hub.ids[serial], "name": "site", "value": site} for serial, site in sites]
        await uow.session.execute(insert(DeviceAttribute), rows)
        await uow.commit()
    await hub.begin(1, NEW, gate=NEVER, limits=Limits(site_in_flight=1))
    assert await hub.counts(1) == {"offered": 3, "queued": 6}
    offered = [serial for serial, state in (await hub.states(1)).items() if state == "offered"]
    assert {(await hub.row(1, serial)).site for serial in offered} == {"site0", "site1", ""}
    await hub.tick()
    assert await hub.counts(1) == {"offered": 3, "queued": 6}
    for serial in offered:
        await hub.ends(serial)
    await hub.tick()
    assert await hub.counts(1) == {"committed": 3, "offered": 2, "queued": 4}
    await hub.check(1)


async def test_in_flight_counts_over_all_waves(hub: Rolling) -> None:
    await hub.craft(*(f"S{number}" for number in range(5)))
    await hub.begin(1, NEW, gate=NEVER, limits=Limits(in_flight=2))
    await hub.tick(3)
    assert await hub.counts(1) == {"offered": 2, "queued": 3}
    await hub.says(next(serial for serial, state in (await hub.states(1)).items() if state == "offered"), "TRIAL")
    await hub.tick(2)
    assert await hub.counts(1) == {"offered": 1, "trial": 1, "queued": 3}


async def test_a_device_that_is_under_way_elsewhere_is_waited_for(hub: Rolling) -> None:
    await hub.craft("S1")
    await hub.begin(1, NEW, gate=NEVER)
    await hub.begin(2, CAMERA, gate=NEVER, priority=90)
    assert (await hub.states(1), await hub.states(2)) == ({"S1": "offered"}, {"S1": "queued"})
    await hub.ends("S1")
    await hub.tick()
    assert (await hub.states(1), await hub.states(2)) == ({"S1": "committed"}, {"S1": "offered"})
    assert await hub.assigned("S1") == {"nav": NEW, "camera": CAMERA}


async def test_of_two_rollouts_the_one_with_the_larger_priority_has_the_device_first(hub: Rolling) -> None:
    await hub.craft("S1")
    await hub.order(1, NEW, gate=NEVER, priority=10)
    await hub.order(2, CAMERA, gate=NEVER, priority=20)
    await hub.tick(2)
    assert (await hub.states(1), await hub.states(2)) == ({"S1": "queued"}, {"S1": "offered"})


async def test_the_urgent_lane_takes_devices_that_have_not_switched(hub: Rolling) -> None:
    await hub.craft("S1", "S2", assigned=OLD)
    await hub.begin(1, NEW, gate=NEVER)
    action = await hub.current("S1")
    await hub.says("S1", "VERIFIED")
    await hub.says("S2", "INSTALLING")
    await hub.begin(2, CAMERA, gate=NEVER, urgent="a hole")
    assert await hub.members(1) == {"S1": ("queued", "urgent_lane"), "S2": ("installing", "")}
    assert await hub.states(2) == {"S1": "offered", "S2": "queued"}
    assert await hub.assigned("S1") == {"nav": OLD, "camera": CAMERA}
    await hub.ends("S1", "cancelled", action=action)
    assert await hub.members(1) == {"S1": ("queued", "urgent_lane"), "S2": ("installing", "")}
    await hub.begin(3, NEWER, gate=NEVER, urgent="another")
    assert await hub.states(3) == {"S1": "queued", "S2": "queued"}
    await hub.ends("S1")
    await hub.ends("S2", "rolled_back", "health_failed")
    await hub.tick()
    # The bad release goes with the offer of the other product.
    assert await hub.states(2) == {"S1": "committed", "S2": "offered"}
    assert await hub.assigned("S2") == {"nav": OLD, "camera": CAMERA}
    for number in (1, 2, 3):
        await hub.check(number)


async def test_who_cannot_have_it_any_more_is_left_out_and_says_why(hub: Rolling) -> None:
    await hub.craft("S1", "S2", "S3", "S4")
    await hub.order(1, NEW, gate=NEVER)
    await hub.tick()
    async with hub.database.unit_of_work() as uow:
        uow.session.add(
            DevicePin(number=hub.numbers["S1"], reason="in use", pinned_by="olga", pinned_at=hub.clock.now())
        )
        await uow.commit()
    await hub.revoke("S2")
    await runs(hub, "S3", NEWER)
    await hub.tick()
    assert await hub.members(1) == {
        "S1": ("pinned", "pinned"),
        "S2": ("skipped", "device_revoked"),
        "S3": ("skipped", "newer_runs"),
        "S4": ("offered", ""),
    }
    await hub.check(1)


async def test_releases_that_must_be_passed_come_first_one_by_one(hub: Rolling) -> None:
    steps = ["nav@1.2.0", "nav@1.5.0"]
    for version, hardware in (("1.2.0", ("rpi4",)), ("1.4.0", ("esp32",)), ("1.5.0", ("any",))):
        await must_pass(hub, version, hardware)
    await hub.craft("S1", "S2", "S3", assigned=OLD)
    await runs(hub, "S1", OLD)
    await runs(hub, "S2", "nav@1.3.0")
    await hub.begin(1, NEW, gate=NEVER)
    seen: dict[str, list[str]] = {serial: [] for serial in ("S1", "S2", "S3")}
    for _ in range(3):
        for serial, state in (await hub.states(1)).items():
            if state == "offered":
                release = (await hub.assigned(serial))["nav"]
                seen[serial].append(release)
                await hub.ends(serial)
                await runs(hub, serial, release)
        await hub.tick()
    assert seen == {"S1": [*steps, NEW], "S2": [steps[1], NEW], "S3": [NEW]}
    assert await hub.counts(1) == {"committed": 3}
    assert ("offered", "queued") in await hub.outcomes(1, "S1")
    # A revert goes back to the last step, behind which no device goes that has committed it.
    assert {serial: (await hub.row(1, serial)).previous for serial in seen} == {
        "S1": steps[1],
        "S2": steps[1],
        "S3": OLD,
    }
    await hub.check(1)


async def test_a_device_that_nothing_was_assigned_to_goes_back_to_what_it_runs(hub: Rolling) -> None:
    await hub.craft("S1", "S2")
    await runs(hub, "S1", OLD)
    await hub.begin(1, NEW, gate=NEVER)
    assert {serial: (await hub.row(1, serial)).previous for serial in ("S1", "S2")} == {"S1": OLD, "S2": None}


async def test_paused_offers_nothing_and_lets_go_on_what_is_under_way(hub: Rolling) -> None:
    await hub.craft("S1", "S2", "S3")
    await hub.begin(1, NEW, gate=NEVER, waves=("1", "100%"))
    await hub.set_state(1, "paused")
    serial = next(serial for serial, state in (await hub.states(1)).items() if state == "offered")
    await hub.ends(serial)
    await hub.tick(2)
    assert await hub.counts(1) == {"committed": 1, "queued": 2}
    await hub.set_state(1, "running")
    await hub.tick()
    assert await hub.counts(1) == {"committed": 1, "offered": 2}


async def must_pass(hub: Rolling, version: str, hardware: tuple[str, ...]) -> None:
    counter = int(version.replace(".", ""))
    parts = (Component("server", "file", "ab" * 32, 1),)
    manifest: Any = ReleaseManifest("nav", version, counter, parts, hardware, must_pass=True)
    async with hub.database.unit_of_work() as uow:
        uow.session.add(
            Release(
                id=f"nav@{version}",
                product="nav",
                version=version,
                team_role="team-nav",
                release_counter=counter,
                revert_counter=counter,
                must_pass=True,
                manifest=encode_manifest(manifest),
                state="published",
                created_by="paul",
                created_at=hub.clock.now(),
            )
        )
        await uow.commit()

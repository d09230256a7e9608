"""Who may be offered a release, and why not: each code, by a device that nothing else keeps from it."""

from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from firmware_schemas.release import Constraint
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.services.release_lookup import published_release
from sdx_hub.services.rollouts.planning.eligibility import ELIGIBLE, SENTENCES, eligibility
from tests.unit.sdx_hub.services.conftest import MovableClock
from tests.unit.sdx_hub.services.rollouts.planned import PlannedFleet


class Setup(PlannedFleet):
    async def verdicts(self, release: str, *, downgrade: bool = False) -> dict[str, str]:
        """By serial."""
        async with self.database.reading() as session:
            row, manifest = await published_release(session, release)
            verdict: Any = await eligibility(session, row, manifest, downgrade=downgrade)
            return dict((await session.execute(select(col(Device.serial), verdict))).all())


@pytest.fixture
def hub(database: Database, clock: MovableClock) -> Setup:
    return Setup(database, clock)


async def test_states_hardware_and_pins(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0", hardware=("rpi4", "quad-x4"))
    await hub.device("ours")
    await hub.device("other", hardware="esp32")
    await hub.device("pending", state="pending")
    await hub.device("revoked", state="revoked")
    await hub.device("pinned")
    await hub.pinned("pinned")
    await hub.device("pinned-other", hardware="esp32")
    await hub.pinned("pinned-other")
    assert await hub.verdicts(release) == {
        "ours": ELIGIBLE,
        "other": "wrong_hardware",
        "pending": "device_pending",
        "revoked": "device_revoked",
        "pinned": "pinned",
        "pinned-other": "wrong_hardware",
    }
    assert set((await hub.verdicts(release)).values()) - {ELIGIBLE} <= SENTENCES.keys()


async def test_who_has_it_is_offered_it_again_only_where_the_last_try_failed(hub: Setup) -> None:
    release, older = await hub.release("steady@2.0.0"), await hub.release("steady@1.0.0")
    for action in ("open", "success", "failed", "rolled_back", "refused", "cancelled"):
        await hub.device(action)
        await hub.assigned(action, release, action)
    await hub.device("older")
    await hub.assigned("older", older)
    assert await hub.verdicts(release) == {
        "open": "has_it",
        "success": "has_it",
        "failed": ELIGIBLE,
        "rolled_back": ELIGIBLE,
        "refused": ELIGIBLE,
        "cancelled": ELIGIBLE,
        "older": ELIGIBLE,
    }


async def test_who_runs_a_newer_one(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0")
    await hub.release("steady@3.0.0", revert_counter=200)
    await hub.release("steady@4.0.0", revert_counter=201)
    await hub.release("steady@5.0.0", revert_counter=100, state="yanked")
    await hub.release("steady@6.0.0", revert_counter=100, state="waiting")
    await hub.device("same", runs={"steady": "2.0.0"})
    await hub.device("older", runs={"steady": "1.0.0"})
    await hub.device("another-product", runs={"camera": "9.0.0"})
    for version in range(3, 8):
        await hub.device(f"runs-{version}", runs={"steady": f"{version}.0.0"})
    fine = dict.fromkeys(("same", "older", "another-product"), ELIGIBLE)
    assert await hub.verdicts(release) == fine | {f"runs-{version}": "newer_runs" for version in range(3, 8)}
    barred = "downgrade_not_allowed"
    assert await hub.verdicts(release, downgrade=True) == fine | {
        "runs-3": ELIGIBLE,
        "runs-4": barred,
        "runs-5": ELIGIBLE,
        "runs-6": barred,
        "runs-7": barred,
    }


async def test_what_it_requires_is_asked_of_what_the_device_will_run(hub: Setup) -> None:
    needs = (Constraint("camera", 200, 299), Constraint("radio", 100))
    release = await hub.release("steady@2.0.0", requires=needs)
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        await hub.release(f"camera@{version}")
    runs = {"radio": "1.0.0"}
    await hub.device("neither")
    await hub.device("one", runs={"camera": "2.0.0"})
    await hub.device("both", runs=runs | {"camera": "2.9.9"})
    await hub.device("too-old", runs=runs | {"camera": "1.9.9"})
    await hub.device("too-new", runs=runs | {"camera": "3.0.0"})
    await hub.device("will-be-new", runs=runs | {"camera": "2.0.0"})
    await hub.assigned("will-be-new", "camera@3.0.0")
    await hub.device("will-be-right", runs=runs | {"camera": "1.0.0"})
    await hub.assigned("will-be-right", "camera@2.0.0")
    missing = "requires_missing"
    assert await hub.verdicts(release) == {
        "neither": missing,
        "one": missing,
        "both": ELIGIBLE,
        "too-old": missing,
        "too-new": missing,
        "will-be-new": missing,
        "will-be-right": ELIGIBLE,
    }


async def test_what_it_conflicts_with(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0", conflicts=(Constraint("camera", 0, 199),))
    await hub.release("camera@1.0.0")
    await hub.device("without")
    await hub.device("old", runs={"camera": "1.0.0"})
    await hub.device("new", runs={"camera": "2.0.0"})
    await hub.device("will-be-old", runs={"camera": "2.0.0"})
    await hub.assigned("will-be-old", "camera@1.0.0")
    clash = "conflicts_with"
    assert await hub.verdicts(release) == {"without": ELIGIBLE, "old": clash, "new": ELIGIBLE, "will-be-old": clash}


async def test_what_other_releases_say_of_it(hub: Setup) -> None:
    """A device checks every constraint of everything that it will run, not only those of what is new."""
    release = await hub.release("steady@2.0.0")
    await hub.release("camera@1.0.0", requires=(Constraint("steady", 100, 199),))
    await hub.release("camera@2.0.0", requires=(Constraint("steady", 100, 299),))
    await hub.release("radio@1.0.0", conflicts=(Constraint("steady", 200, 200),))
    await hub.release("radio@2.0.0", conflicts=(Constraint("steady", 201),))
    for name in ("camera@1.0.0", "camera@2.0.0", "radio@1.0.0", "radio@2.0.0"):
        await hub.device(name)
        await hub.assigned(name, name)
    assert await hub.verdicts(release) == {
        "camera@1.0.0": "conflicts_with",
        "camera@2.0.0": ELIGIBLE,
        "radio@1.0.0": "conflicts_with",
        "radio@2.0.0": ELIGIBLE,
    }

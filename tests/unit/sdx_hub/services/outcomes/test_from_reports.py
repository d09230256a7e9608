"""What members become by what their devices report, early, late and twice."""

import pytest
from sqlalchemy import true

from sdx_hub.persistence.database import Database
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER
from sdx_hub.services.devices.desired_state import mark, open_actions
from sdx_hub.services.outcomes.carrying import carry_over
from sdx_hub.services.outcomes.superseding import NO_ROLLOUT
from tests.unit.sdx_hub.services.conftest import OPERATOR, MovableClock
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S
from tests.unit.sdx_hub.services.rollouts.rolling import NEVER, Rolling

OLD, NEW, NEWER = "nav@1.0.0", "nav@2.0.0", "nav@3.0.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rolling:
    hub = Rolling(database, clock)
    for release in (OLD, NEW, NEWER):
        await hub.release(release)
    await hub.craft("S1", assigned=OLD)
    hub.clock.move(seconds=10)
    return hub


async def test_reports_of_no_rollout_change_no_member(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    before = await hub.row(1, "S1")
    for action in (f"{hub.ids['S1']}.1", f"{hub.ids['S1']}.x", "nobody.2", "2", f"{hub.ids['S1']}.{10**30}"):
        await hub.says("S1", "TRIAL", action=action)
        await hub.ends("S1", "failed", action=action)
    assert await hub.row(1, "S1") == before
    await hub.says("S1", "UNHEARD_OF")
    assert await hub.states(1) == {"S1": "offered"}


@pytest.mark.parametrize(
    ("result", "state"),
    [
        ("success", "committed"),
        ("failed", "failed"),
        ("rolled_back", "rolled_back"),
        ("refused", "refused"),
        ("cancelled", "superseded"),
    ],
)
async def test_the_first_result_is_what_becomes_of_a_member(hub: Rolling, result: str, state: str) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    await hub.ends("S1", result, "because")  # type: ignore[arg-type]
    assert await hub.members(1) == {"S1": (state, "because")}
    assert (await hub.row(1, "S1")).check_at_s is None
    for other in ("success", "failed", "cancelled") if state != "superseded" else ("cancelled",):
        await hub.ends("S1", other)  # type: ignore[arg-type]
    await hub.says("S1", "DOWNLOADING")
    assert await hub.members(1) == {"S1": (state, "because")}
    await hub.tick()
    await hub.check(1)


async def test_who_was_given_up_and_comes_on_is_under_way_again(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    await hub.says("S1", "INSTALLING")
    hub.clock.move(seconds=SILENT_AFTER_S + 1)
    await hub.tick()
    assert await hub.members(1) == {"S1": ("lost", "lost_contact")}
    await hub.says("S1", "TRIAL")
    assert await hub.states(1) == {"S1": "trial"}
    hub.clock.move(seconds=SILENT_AFTER_S - 1)
    await hub.tick()
    assert await hub.states(1) == {"S1": "trial"}
    hub.clock.move(seconds=2)
    await hub.tick()
    assert await hub.states(1) == {"S1": "lost"}
    await hub.ends("S1")
    await hub.tick()
    assert await hub.states(1) == {"S1": "committed"}
    await hub.check(1)


async def test_a_result_of_an_offer_that_was_taken_back_still_counts(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    action = await hub.current("S1")
    await hub.set_state(1, "halted")
    await hub.tick()
    assert await hub.states(1) == {"S1": "withdrawn"}
    await hub.ends("S1", "cancelled", action=action)
    assert await hub.states(1) == {"S1": "withdrawn"}
    await hub.ends("S1", action=action)
    assert await hub.states(1) == {"S1": "committed"}
    await hub.ends("S1", "failed", action=action)
    await hub.tick()
    assert await hub.states(1) == {"S1": "committed"}
    await hub.check(1)


async def test_an_assignment_by_a_person_supersedes_an_offer(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    action = await hub.current("S1")
    await hub.assigning.assign(OPERATOR, NEWER, ["S1"])
    assert await hub.members(1) == {"S1": ("superseded", "assigned_otherwise")}
    await hub.tick()
    await hub.check(1)
    await hub.ends("S1", "rolled_back", "health_failed", action=action)
    assert await hub.members(1) == {"S1": ("rolled_back", "health_failed")}


async def test_an_assignment_of_another_product_leaves_the_offer_open(hub: Rolling) -> None:
    camera = await hub.release("camera@1.0.0")
    await hub.begin(1, NEW, gate=NEVER)
    await hub.says("S1", "DOWNLOADING")
    await hub.assigning.assign(OPERATOR, camera, ["S1"])
    assert await hub.states(1) == {"S1": "downloading"}
    await hub.ends("S1")
    assert await hub.states(1) == {"S1": "committed"}


async def test_a_yank_takes_open_offers_and_halts(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    await hub.yank(NEW)
    assert await hub.members(1) == {"S1": ("superseded", "release_yanked")}
    await hub.tick()
    row = await hub.rollout_row(1)
    assert (row.state, row.code) == ("halted", "release_not_published")
    await hub.check(1)


async def test_offers_go_on_where_a_restored_hub_skips_desired_versions(hub: Rolling) -> None:
    await hub.begin(1, NEW, gate=NEVER)
    async with hub.database.unit_of_work() as uow:
        seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        await mark(uow.session, seq, true(), has_assignment=true(), step=1_000)
        await carry_over(uow.session, seq, NO_ROLLOUT, 1_000)
        await open_actions(uow.session, seq, hub.clock.now(), ended="superseded", code="", why="restored")
        await uow.commit()
    await hub.says("S1", "TRIAL")
    await hub.ends("S1")
    assert await hub.outcomes(1, "S1") == [("queued", "offered"), ("offered", "trial"), ("trial", "committed")]

"""What failed on a device is taken from it with the next thing that it is given."""

import pytest
from sqlalchemy import true
from sqlmodel import col

from sdx_hub.domain.rollout.states import MEMBER_STATES
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER
from sdx_hub.services.devices.desired_state import mark
from sdx_hub.services.rollouts.going_back.known_bad import put_back_failed
from tests.unit.sdx_hub.services.conftest import OPERATOR, MovableClock
from tests.unit.sdx_hub.services.rollouts.members import Rollouts

GOOD, BAD = "nav@1.0.0", "nav@1.1.0"


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Rollouts:
    hub = Rollouts(database, clock)
    await hub.release(GOOD)
    await hub.release(BAD, back_to=100)
    await hub.rollout(1, BAD)
    return hub


async def offer(hub: Rollouts, serial: str, product: str = "camera") -> None:
    """What an offer does before it opens the action."""
    async with hub.database.unit_of_work() as uow:
        seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        await mark(uow.session, seq, col(Device.id) == hub.ids[serial], has_assignment=true())
        await put_back_failed(uow.session, seq, product, hub.clock.now())
        await uow.commit()


@pytest.mark.parametrize("state", MEMBER_STATES)
async def test_an_offer_of_another_product_takes_away_what_failed(hub: Rollouts, state: str) -> None:
    for serial in ("S1", "S2"):
        await hub.device(serial, GOOD)
        await hub.member(1, serial, state)
    before, other = await hub.assigned("S1"), await hub.assigned("S2")
    await offer(hub, "S1")
    failed = state in {"failed", "rolled_back", "refused"}
    assert await hub.assigned("S1") == ({"nav": GOOD} if failed else before)
    assert await hub.assigned("S2") == other
    assert (await hub.members(1))["S1"] == (state, "")


async def test_what_failed_goes_away_also_where_nothing_was_before_it(hub: Rollouts) -> None:
    await hub.device("S1")
    await hub.member(1, "S1", "failed")
    await offer(hub, "S1")
    assert await hub.assigned("S1") == {}


async def test_what_failed_again_goes_back_to_what_was_before_the_first_try(hub: Rollouts) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "failed")
    await hub.rollout(2, BAD)
    await hub.member(2, "S1", "failed")
    await offer(hub, "S1")
    assert await hub.assigned("S1") == {"nav": GOOD}


async def test_what_another_release_took_the_place_of_stays_away(hub: Rollouts) -> None:
    newer = await hub.release("nav@2.0.0")
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "failed")
    await hub.assigning.assign(OPERATOR, newer, ["S1"])
    await offer(hub, "S1")
    assert await hub.assigned("S1") == {"nav": newer}


async def test_the_product_that_is_offered_is_left_to_the_offer(hub: Rollouts) -> None:
    await hub.device("S1", GOOD)
    await hub.member(1, "S1", "failed")
    await offer(hub, "S1", "nav")
    assert await hub.assigned("S1") == {"nav": BAD}

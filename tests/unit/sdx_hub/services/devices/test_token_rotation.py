import hashlib
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from firmware_schemas.device_api import PollAnswer, TokenReport
from firmware_schemas.ids import DeviceId
from sdx_hub.domain.errors import ConflictError, NotAllowed
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.services.devices import token_rotation
from sdx_hub.services.devices.fleet_memory import token_key
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.devices.reports import ReportService
from sdx_hub.services.devices.token_rotation import TokenRotation
from tests.unit.sdx_hub.services.conftest import OPERATOR, START, VIEWER, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft
from tests.unit.sdx_hub.services.devices.test_fleet_state import add, change

LIFE = timedelta(days=90)


@pytest.fixture
async def fleet(database: Database, clock: MovableClock) -> FleetState:
    return FleetState(database, clock, PollSettings())


@pytest.fixture
def rotation(database: Database, clock: MovableClock, fleet: FleetState) -> TokenRotation:
    return TokenRotation(database, clock, fleet, LIFE)


async def row(database: Database, craft: Craft) -> Device:
    async with database.reading() as session:
        found = await session.get(Device, craft.id)
    assert found is not None
    return found


def slot_of(fleet: FleetState, token: str) -> int:
    slot = fleet.memory.tokens.find(token_key(token.encode()))
    assert slot is not None
    return slot


def answer(fleet: FleetState, token: str) -> PollAnswer:
    return msgspec.json.decode(fleet.memory.answer(slot_of(fleet, token)), type=PollAnswer)


async def announce(database: Database, clock: MovableClock, fleet: FleetState, craft: Craft, token: str) -> None:
    digest = hashlib.sha256(token.encode()).hexdigest()
    await ReportService(database, clock, fleet).receive(DeviceId(craft.id), craft.batch(TokenReport(digest)))


async def test_an_asked_device_is_told_until_it_uses_another_token(
    database: Database, clock: MovableClock, fleet: FleetState, rotation: TokenRotation
) -> None:
    craft, other = Craft("S1"), Craft("S2")
    await add(database, craft)
    await add(database, other)
    await fleet.load()
    assert not answer(fleet, craft.token).rotate_token
    assert await rotation.ask(OPERATOR, "S1") == craft.id
    slot = slot_of(fleet, craft.token)
    assert answer(fleet, craft.token).rotate_token
    assert fleet.memory.asks(slot), "a 304 would hide the wish"
    assert not answer(fleet, other.token).rotate_token

    await announce(database, clock, fleet, craft, "sdxd_new")
    assert answer(fleet, craft.token).rotate_token, "announced is not used"
    assert await fleet.authenticate("sdxd_new") == craft.id
    assert not answer(fleet, "sdxd_new").rotate_token
    await change(database, craft, desired_version=4)
    await fleet.catch_up()  # The database still has the wish; the first use must not be forgotten over it.
    assert not answer(fleet, "sdxd_new").rotate_token
    clock.move(hours=1)
    await fleet.flush()
    await fleet.catch_up()
    assert not answer(fleet, "sdxd_new").rotate_token
    stored = await row(database, craft)
    assert (stored.rotation_wanted, stored.rotated_at) == (False, START + timedelta(hours=1))


async def test_asking_again_changes_nothing(database: Database, fleet: FleetState, rotation: TokenRotation) -> None:
    craft = Craft()
    await add(database, craft)
    await fleet.load()
    await rotation.ask(OPERATOR, craft.id)
    before = (await row(database, craft)).change_seq
    await rotation.ask(OPERATOR, craft.id)
    assert (await row(database, craft)).change_seq == before


async def test_who_may_ask_and_of_whom(database: Database, rotation: TokenRotation) -> None:
    await add(database, Craft("S1"))
    with pytest.raises(NotAllowed):
        await rotation.ask(VIEWER, "S1")
    for serial, state in (("S2", "pending"), ("S3", "revoked")):
        await add(database, Craft(serial), state)
        with pytest.raises(ConflictError) as refused:
            await rotation.ask(OPERATOR, serial)
        assert refused.value.code == f"device_{state}"


async def test_old_tokens_are_replaced_by_themselves_the_oldest_first(
    database: Database,
    clock: MovableClock,
    fleet: FleetState,
    rotation: TokenRotation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(token_rotation, "BATCH", 2)
    fields: dict[str, dict[str, Any]] = {
        "older": {"created_at": START - timedelta(days=20)},
        "old": {"created_at": START - timedelta(days=10)},
        "oldest": {"created_at": START - timedelta(days=30)},
        "rotated": {"created_at": START - timedelta(days=40), "rotated_at": START + timedelta(days=80)},
    }
    crafts = {name: Craft(name) for name in [*fields, "gone"]}
    for name, more in fields.items():
        await add(database, crafts[name], **more)
    await add(database, crafts["gone"], "revoked", created_at=START - timedelta(days=50))
    await fleet.load()
    assert await rotation.ask_old() == 0, "nobody's token is 90 days old yet"

    clock.move(days=85)
    assert await rotation.ask_old() == 2
    assert answer(fleet, crafts["oldest"].token).rotate_token
    assert answer(fleet, crafts["older"].token).rotate_token
    assert not answer(fleet, crafts["old"].token).rotate_token
    assert await rotation.ask_old() == 1
    assert answer(fleet, crafts["old"].token).rotate_token
    assert await rotation.ask_old() == 0, "the rotated one is young, the revoked one has no token that counts"
    assert not answer(fleet, crafts["rotated"].token).rotate_token

import asyncio
import hashlib
import os
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from sqlalchemy import select, update
from sqlmodel import col

from firmware_schemas.device_api import PollAnswer, TokenReport
from firmware_schemas.ids import DeviceId
from sdx_hub.domain.errors import NotAllowed, NotAuthenticated
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.device_feed import PENDING, REVOKED, DeviceRow
from sdx_hub.persistence.tables.devices import Device, DeviceSeen
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, DEVICE_NUMBER_COUNTER
from sdx_hub.services.devices.fleet_memory import NO_DEVICE
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.devices.reports import ReportService
from tests.unit.sdx_hub.services.conftest import START, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft


async def add(database: Database, craft: Craft, state: str = "accepted", **fields: Any) -> int:
    async with database.unit_of_work() as uow:
        number = await uow.next_number(DEVICE_NUMBER_COUNTER)
        base: dict[str, Any] = {
            "id": craft.id,
            "number": number,
            "serial": craft.serial,
            "device_key": craft.device_key,
            "hardware": craft.hardware,
            "state": state,
            "token_sha256": craft.token_sha256,
            "change_seq": await uow.next_number(DEVICE_CHANGE_COUNTER),
            "created_at": START,
        }
        uow.session.add(Device(**{**base, **fields}))
        await uow.commit()
        return number


async def change(database: Database, craft: Craft, **values: Any) -> None:
    async with database.unit_of_work() as uow:
        seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        await uow.session.execute(update(Device).where(col(Device.id) == craft.id).values(change_seq=seq, **values))
        await uow.commit()


@pytest.fixture
def fleet(database: Database, clock: MovableClock) -> FleetState:
    return FleetState(database, clock, PollSettings(interval_s=60, jitter_s=15))


async def test_load_knows_every_device_and_its_state(database: Database, fleet: FleetState) -> None:
    crafts = [Craft(f"S{number}") for number in range(3)]
    for craft, state in zip(crafts, ("accepted", "pending", "revoked"), strict=True):
        await add(database, craft, state, desired_version=7)
    await fleet.load()
    assert list(fleet.memory.versions)[:4] == [NO_DEVICE, 7, PENDING, REVOKED]
    assert await fleet.authenticate(crafts[0].token) == crafts[0].id
    for craft, code in ((crafts[1], "device_pending"), (crafts[2], "device_revoked")):
        with pytest.raises(NotAllowed) as refused:
            await fleet.authenticate(craft.token)
        assert refused.value.code == code
    assert fleet.figures().devices == {"pending": 1, "accepted": 1, "revoked": 1}


async def test_a_token_is_found_by_its_whole_text_only(database: Database, fleet: FleetState) -> None:
    craft = Craft()
    await add(database, craft)
    await fleet.load()
    for token in (
        "",
        "sdxd_",
        craft.token[:-1],
        craft.token + " ",
        craft.token.removeprefix("sdxd_"),
        craft.token_sha256,
    ):
        with pytest.raises(NotAuthenticated) as refused:
            await fleet.authenticate(token)
        assert refused.value.code == "token_unknown"


async def test_the_answer_names_the_action_only_where_something_is_assigned(
    database: Database, fleet: FleetState
) -> None:
    idle, busy = Craft("S1"), Craft("S2")
    has = {"has_assignment": True, "has_inventory": True}
    slots = [await add(database, idle), await add(database, busy, desired_version=3, **has)]
    await fleet.load()
    first, second = (msgspec.json.decode(fleet.memory.answer(slot), type=PollAnswer) for slot in slots)
    assert first == PollAnswer(0, "", 60, 15, inventory=True)
    assert second == PollAnswer(3, f"{busy.id}.3", 60, 15, inventory=False)
    assert [fleet.memory.asks(slot) for slot in slots] == [True, False]


async def test_changes_of_another_worker_are_found_by_the_loop(database: Database, clock: MovableClock) -> None:
    craft = Craft()
    slot = await add(database, craft)
    fleet = FleetState(database, clock, PollSettings(refresh_s=0.01, flush_s=0.01))
    await fleet.load()
    fleet.start()
    try:
        await change(database, craft, state="revoked")
        async with asyncio.timeout(5):
            while fleet.memory.versions[slot] != REVOKED:
                await asyncio.sleep(0.01)
    finally:
        await fleet.stop()


async def test_a_device_that_another_worker_has_just_accepted_is_never_unknown(
    database: Database, fleet: FleetState
) -> None:
    await fleet.load()
    craft = Craft()
    await add(database, craft)
    assert await fleet.authenticate(craft.token) == craft.id


async def test_guessing_tokens_costs_few_queries_and_all_guesses_share_them(
    database: Database, fleet: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.load()
    looks = 0
    real = fleet._look

    async def counted() -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return await real()

    monkeypatch.setattr(fleet, "_look", counted)
    for _ in range(4):
        found = await asyncio.gather(*(fleet.find(os.urandom(20)) for _ in range(100)))
        assert set(found) == {None}
    assert looks == 4


async def test_only_what_changed_is_read_again(
    database: Database, fleet: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafts = [Craft(f"S{number}") for number in range(5)]
    for craft in crafts:
        await add(database, craft)
    await fleet.load()
    read: list[int] = []
    monkeypatch.setattr(fleet.memory, "apply", lambda rows: read.extend(row[0] for row in rows))
    await fleet.catch_up()
    await change(database, crafts[2], desired_version=1)
    await fleet.catch_up()
    assert read == [3]


async def test_a_reading_that_breaks_off_misses_nothing(
    database: Database, fleet: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices of one assignment share a change number: the one after the break must not be taken for known."""
    crafts = [Craft(f"S{number}") for number in range(3)]
    seq = 1
    for craft in crafts:
        await add(database, craft, change_seq=seq)
    real, broken = fleet.memory.apply, False

    def breaks(rows: Iterable[DeviceRow]) -> None:
        nonlocal broken
        if broken:
            real(rows)
            return
        broken = True
        real(list(rows)[:2])
        raise ConnectionResetError

    monkeypatch.setattr(fleet.memory, "apply", breaks)
    with pytest.raises(ConnectionResetError):
        await fleet.catch_up()
    await fleet.catch_up()
    for craft in crafts:
        assert await fleet.authenticate(craft.token) == craft.id


async def test_a_new_token_replaces_the_old_one_at_its_first_use(
    database: Database, fleet: FleetState, clock: MovableClock
) -> None:
    craft = Craft()
    await add(database, craft)
    await fleet.load()
    old, new = craft.token, "sdxd_the-next-one"
    announced = hashlib.sha256(new.encode()).hexdigest()
    await ReportService(database, clock, fleet).receive(DeviceId(craft.id), craft.batch(TokenReport(announced)))
    assert await fleet.authenticate(old) == craft.id, "until the new one is used, its announcement may have been lost"
    assert await fleet.authenticate(new) == craft.id
    with pytest.raises(NotAuthenticated):
        await fleet.authenticate(old)
    await change(database, craft, desired_version=4)
    await fleet.catch_up()  # The database does not know yet which token is used.
    with pytest.raises(NotAuthenticated):
        await fleet.authenticate(old)
    assert await fleet.authenticate(new) == craft.id
    await fleet.flush()
    await fleet.catch_up()
    async with database.reading() as session:
        device = await session.get(Device, craft.id)
    assert device is not None
    assert (device.token_sha256, device.next_token_sha256) == (announced, None)
    restarted = FleetState(database, clock, PollSettings())
    await restarted.load()
    assert await restarted.authenticate(new) == craft.id
    with pytest.raises(NotAuthenticated):
        await restarted.authenticate(old)


async def test_who_was_seen_is_written_in_one_statement(
    database: Database, fleet: FleetState, clock: MovableClock
) -> None:
    for number in range(3):
        await add(database, Craft(f"S{number}"))
    await fleet.load()
    fleet.sightings.seen |= {1, 3}
    await fleet.flush()
    clock.move(seconds=5)
    fleet.sightings.seen.add(3)
    await fleet.flush()
    start = int(START.timestamp())
    async with database.reading() as session:
        rows = await session.execute(select(col(DeviceSeen.number), col(DeviceSeen.last_seen_s)))
        assert set(map(tuple, rows)) == {(1, start), (3, start + 5)}
    assert fleet.sightings.seen == set()


async def test_a_flush_that_fails_is_done_again(
    database: Database, fleet: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(database, Craft())
    await fleet.load()
    fleet.sightings.seen.add(1)

    def away() -> None:
        raise ConnectionResetError

    monkeypatch.setattr(database, "write_behind", away)
    with pytest.raises(ConnectionResetError):
        await fleet.flush()
    assert fleet.sightings.seen == {1}


async def test_stop_writes_what_was_seen_last(database: Database, fleet: FleetState) -> None:
    await add(database, Craft())
    await fleet.load()
    fleet.start()
    fleet.sightings.seen.add(1)
    await fleet.stop()
    async with database.reading() as session:
        assert await session.get(DeviceSeen, 1) is not None


async def test_nothing_seen_is_nothing_written(
    database: Database, fleet: FleetState, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fleet.load()

    def written() -> None:
        raise AssertionError("nothing was seen")

    monkeypatch.setattr(database, "write_behind", written)
    monkeypatch.setattr(database, "unit_of_work", written)
    await fleet.flush()

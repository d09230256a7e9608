"""Two replicas on one PostgreSQL: what one commits the other obeys, by notice, by looking, or by refusing to answer."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sdx_hub.domain.errors import NotAllowed, NotAuthenticated, Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.device_feed import DeviceRow
from sdx_hub.persistence.notices import Notices
from sdx_hub.persistence.unit_of_work import FLEET_CHANNEL
from sdx_hub.services.devices import fleet_state
from sdx_hub.services.devices.fleet_memory import token_key
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from tests.support.postgres import Databases
from tests.support.trouble import NOTICES, Trouble
from tests.unit.sdx_hub.services.conftest import MovableClock
from tests.unit.sdx_hub.services.crafts import Craft
from tests.unit.sdx_hub.services.devices.test_fleet_state import add, change

NEVER_S = 3600.0
STALE_S = 10.0


class Elapsed:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture(params=["postgresql"])
def database_url(databases: Databases) -> str:
    return databases.emptied()


@pytest.fixture
def server(databases: Databases, database_url: str) -> Trouble:
    return Trouble(databases, database_url)


@pytest.fixture
async def other(database_url: str, clock: MovableClock) -> AsyncIterator[Database]:
    """The second replica's way to the database."""
    database = await Database.open(database_url, clock)
    yield database
    await database.close()


@asynccontextmanager
async def listening(database: Database, fleet: FleetState) -> AsyncIterator[list[int]]:
    """Notices of a replica whose loops are asleep; the list has an entry for each time that it was called back."""
    calls: list[int] = []

    async def told() -> None:
        await fleet.catch_up()
        calls.append(len(calls))

    notices = Notices(database)
    notices.on(FLEET_CHANNEL, told)
    notices.start()
    try:
        await until(lambda: bool(calls))
        yield calls
    finally:
        await notices.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def is_refused(fleet: FleetState, craft: Craft) -> bool:
    try:
        assert await fleet.authenticate(craft.token) == craft.id
    except NotAllowed as refused:
        assert refused.code == "device_revoked"
        return True
    return False


async def until_refused(fleet: FleetState, craft: Craft) -> None:
    async with asyncio.timeout(20):
        while not await is_refused(fleet, craft):
            await asyncio.sleep(0.005)


async def is_stale(fleet: FleetState, craft: Craft) -> bool:
    try:
        assert await fleet.authenticate(craft.token) == craft.id
    except Unavailable as refused:
        assert refused.code == "fleet_state_stale"
        wait_s = refused.extra["retry_after_s"]
        assert isinstance(wait_s, int)
        assert fleet.settings.interval_s <= wait_s <= 2 * fleet.settings.interval_s
        return True
    return False


async def test_a_notice_alone_brings_a_revocation_to_the_other_replica(
    database: Database, other: Database, clock: MovableClock
) -> None:
    craft = Craft()
    await add(database, craft)
    fleet = FleetState(other, clock, PollSettings(refresh_s=NEVER_S, stale_s=NEVER_S))
    await fleet.load()
    async with listening(other, fleet):
        assert not await is_refused(fleet, craft)
        await change(database, craft, state="revoked")
        await until_refused(fleet, craft)


async def test_what_was_said_while_the_connection_was_cut_is_known_after_it(
    database: Database, other: Database, clock: MovableClock, server: Trouble
) -> None:
    craft = Craft()
    await add(database, craft)
    fleet = FleetState(other, clock, PollSettings(refresh_s=NEVER_S, stale_s=NEVER_S))
    await fleet.load()
    async with listening(other, fleet) as calls:
        before = len(calls)
        server.cut(NOTICES)
        await change(database, craft, state="revoked")
        await until(lambda: len(calls) > before)
        await until_refused(fleet, craft)


async def test_without_notices_the_loop_finds_it(database: Database, other: Database, clock: MovableClock) -> None:
    craft = Craft()
    await add(database, craft)
    fleet = FleetState(other, clock, PollSettings(refresh_s=0.02, stale_s=NEVER_S))
    await fleet.load()
    fleet.start()
    try:
        await change(database, craft, state="revoked")
        await until_refused(fleet, craft)
    finally:
        await fleet.stop()


async def test_a_replica_that_cannot_look_answers_until_the_bound_and_not_beyond(
    database: Database, other: Database, clock: MovableClock, server: Trouble
) -> None:
    craft, elapsed = Craft(), Elapsed()
    await add(database, craft)
    fleet = FleetState(other, clock, PollSettings(stale_s=STALE_S), elapsed)
    await fleet.load()
    with server.away():
        elapsed.s += STALE_S
        assert not await is_stale(fleet, craft), "the bound is not reached yet"
        elapsed.s += 0.001
        assert await is_stale(fleet, craft)
        assert fleet.figures().staleness_s > STALE_S
    elapsed.s += 1
    assert not await is_stale(fleet, craft), "the first look that succeeds is enough"


async def test_a_replica_that_slept_looks_before_it_answers(
    database: Database, other: Database, clock: MovableClock
) -> None:
    """As a paused process or a suspended machine does: no loop had its turn, and no time out was heard of."""
    craft, elapsed = Craft(), Elapsed()
    await add(database, craft)
    fleet = FleetState(other, clock, PollSettings(stale_s=STALE_S), elapsed)
    await fleet.load()
    await change(database, craft, state="revoked")
    assert not await is_refused(fleet, craft), "nobody told it, and what it knows still counts"
    elapsed.s += STALE_S + 0.001
    assert await is_refused(fleet, craft)


async def test_what_counts_is_when_the_look_began(
    database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was committed while the answer was on its way is not in it."""
    craft, elapsed = Craft(), Elapsed()
    await add(database, craft)
    fleet = FleetState(database, clock, PollSettings(stale_s=STALE_S), elapsed)
    real = fleet._look

    async def slow() -> tuple[int, int]:
        found = await real()
        elapsed.s += STALE_S + 1
        return found

    monkeypatch.setattr(fleet, "_look", slow)
    await fleet.load()
    assert fleet.now_s() > fleet.fresh_until_s
    assert await is_stale(fleet, craft)


async def test_a_server_that_says_nothing_keeps_no_device_waiting(
    database: Database, other: Database, clock: MovableClock, server: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_state, "_SILENCE_S", 0.5)
    monkeypatch.setattr(fleet_state, "_PATIENCE_S", 0.1)
    craft, elapsed = Craft(), Elapsed()
    await add(database, craft)
    fleet = FleetState(other, clock, PollSettings(stale_s=STALE_S), elapsed)
    await fleet.load()
    with server.silent():
        elapsed.s += STALE_S + 1
        assert await is_stale(fleet, craft)
        # The connection that hangs was given up: the next look takes a new one.
        elapsed.s += 1
        async with asyncio.timeout(20):
            while await is_stale(fleet, craft):
                elapsed.s += 1
                await asyncio.sleep(0.01)


async def test_a_server_that_says_nothing_is_a_database_that_is_away(
    database: Database, other: Database, clock: MovableClock, server: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_state, "_SILENCE_S", 0.3)
    await add(database, Craft())
    fleet = FleetState(other, clock, PollSettings())
    await fleet.load()
    fleet.start()
    with server.silent():
        with pytest.raises(Unavailable) as refused:
            await fleet.catch_up()
        assert refused.value.code == "database_unavailable"
    await fleet.stop()


async def test_a_hub_ends_also_while_the_database_is_away(
    database: Database, other: Database, clock: MovableClock, server: Trouble
) -> None:
    await add(database, Craft())
    fleet = FleetState(other, clock, PollSettings())
    await fleet.load()
    fleet.start()
    with server.away():
        fleet.sightings.seen.add(1)
        await fleet.stop()
    assert fleet.sightings.seen == {1}


async def test_devices_that_come_while_the_database_is_away_are_refused_at_once(
    database: Database, other: Database, clock: MovableClock, server: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    craft, elapsed = Craft(), Elapsed()
    await add(database, craft)
    fleet = FleetState(other, clock, PollSettings(stale_s=STALE_S), elapsed)
    await fleet.load()
    looks = 0
    real = fleet._look

    async def counted() -> tuple[int, int]:
        nonlocal looks
        looks += 1
        return await real()

    monkeypatch.setattr(fleet, "_look", counted)
    with server.away():
        elapsed.s += STALE_S + 1
        for _ in range(100):
            assert await is_stale(fleet, craft)
    assert looks == 1


async def test_a_token_that_nobody_knows_is_no_verdict_while_the_database_is_away(
    database: Database, other: Database, clock: MovableClock, server: Trouble
) -> None:
    fleet = FleetState(other, clock, PollSettings())
    await fleet.load()
    with server.away(), pytest.raises(Unavailable):
        await fleet.authenticate("sdxd_unknown")
    with pytest.raises(NotAuthenticated):
        await fleet.authenticate("sdxd_unknown")


async def test_two_replicas_that_both_see_a_new_token_agree(
    database: Database, other: Database, clock: MovableClock
) -> None:
    craft, new = Craft(), "sdxd_the-next-one"
    await add(database, craft, next_token_sha256=hashlib.sha256(new.encode()).hexdigest())
    first, second = FleetState(database, clock, PollSettings()), FleetState(other, clock, PollSettings())
    for fleet in (first, second):
        await fleet.load()
        assert await fleet.authenticate(new) == craft.id
    await asyncio.gather(first.flush(), second.flush())
    for fleet in (first, second):
        await fleet.catch_up()
        assert await fleet.authenticate(new) == craft.id
        with pytest.raises(NotAuthenticated):
            await fleet.authenticate(craft.token)
        assert not fleet.memory.rotated, "the database knows"


async def test_an_old_look_does_not_bring_an_old_token_back(
    database: Database, clock: MovableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that began before the rotation was committed ends after it."""
    craft, new = Craft(), "sdxd_the-next-one"
    await add(database, craft, next_token_sha256=hashlib.sha256(new.encode()).hexdigest())
    fleet = FleetState(database, clock, PollSettings())
    await fleet.load()
    assert await fleet.authenticate(new) == craft.id
    apply, stale = fleet.memory.apply, list[DeviceRow]()
    monkeypatch.setattr(fleet.memory, "apply", stale.extend)
    fleet._last_seq = -1
    await fleet.catch_up()
    monkeypatch.setattr(fleet.memory, "apply", apply)
    fleet_look = fleet.catch_up

    async def with_the_old_one_first() -> None:
        apply(stale)
        assert fleet.memory.tokens.find(token_key(craft.token.encode())) is None
        await fleet_look()

    monkeypatch.setattr(fleet, "catch_up", with_the_old_one_first)
    await fleet.flush()
    assert await fleet.authenticate(new) == craft.id

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlmodel import col

from firmware_schemas.device_api import envelope, parse_enrol_string
from firmware_schemas.errors import SchemaError
from sdx_hub.domain.errors import BadInput, ConflictError, HubError, NotAllowed, NotFound, TrustError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.device_feed import PENDING, REVOKED
from sdx_hub.persistence.tables.assignments import Action
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import Device, DeviceEvent, EnrolToken
from sdx_hub.services.devices.enrolment import MAX_ENROL_LIFE, EnrolmentService
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from tests.unit.sdx_hub.services.conftest import OPERATOR, PUBLISHER, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft, Digests, FixedRoots

HOUR = timedelta(hours=1)


class Setup:
    def __init__(self, database: Database, clock: MovableClock) -> None:
        self.database = database
        self.clock = clock
        self.fleet = FleetState(database, clock, PollSettings(interval_s=42))
        self.enrolment = EnrolmentService(database, clock, FixedRoots(), self.fleet)

    async def token(self, serial: str | None = None, life: timedelta = HOUR) -> str:
        made = await self.enrolment.new_enrol_token(OPERATOR, serial, life)
        return parse_enrol_string(made.enrol_string).secret

    async def device(self, craft: Craft) -> Device | None:
        async with self.database.reading() as session:
            return await session.get(Device, craft.id)

    async def snapshot(self) -> list[tuple[Any, ...]]:
        """Everything about devices and tokens: what a refusal must leave as it was."""
        async with self.database.reading() as session:
            found: list[tuple[Any, ...]] = []
            for table in (Device, EnrolToken, DeviceEvent, AuditEntry):
                found += [tuple(row) for row in await session.execute(select(*table.__table__.columns))]  # type: ignore[attr-defined]
            return found

    async def refused(self, sealed: Any) -> HubError:
        before = await self.snapshot()
        with pytest.raises(HubError) as refused:
            await self.enrolment.enrol(sealed)
        assert await self.snapshot() == before
        return refused.value


@pytest.fixture
def hub(database: Database, clock: MovableClock) -> Setup:
    return Setup(database, clock)


async def test_a_token_accepts_a_device_which_may_poll_at_once(hub: Setup) -> None:
    craft = Craft()
    answer = await hub.enrolment.enrol(craft.enrolment(await hub.token()))
    assert (answer.device_id, answer.state, answer.interval_s) == (craft.id, "accepted", 42)
    assert base64.b64decode(answer.image_root) == b"image root"
    assert base64.b64decode(answer.director_root) == b"director root"
    assert await hub.fleet.authenticate(craft.token) == craft.id


async def test_the_enrolment_string_carries_both_roots_and_its_secret_is_stored_as_a_hash(hub: Setup) -> None:
    made = await hub.enrolment.new_enrol_token(OPERATOR, "S1", HOUR)
    parsed = parse_enrol_string(made.enrol_string)
    assert (parsed.image_root_sha256, parsed.director_root_sha256) == (Digests().image, Digests().director)
    assert made.expires_at == hub.clock.now() + HOUR
    assert parsed.secret not in repr(made)
    assert parsed.secret not in repr(await hub.snapshot())


async def test_a_token_is_used_once(hub: Setup) -> None:
    token = await hub.token()
    await hub.enrolment.enrol(Craft("S1").enrolment(token))
    error = await hub.refused(Craft("S2").enrolment(token))
    assert (type(error), error.code) == (ConflictError, "enrol_token_used")


async def test_two_crafts_at_the_same_moment_get_one_use_of_a_token(hub: Setup) -> None:
    token = await hub.token()
    answers = await asyncio.gather(
        *(hub.enrolment.enrol(Craft(f"S{number}").enrolment(token)) for number in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert {answer.code for answer in answers if isinstance(answer, HubError)} == {"enrol_token_used"}


async def test_a_replayed_enrolment_gets_the_same_answer_and_changes_nothing(hub: Setup) -> None:
    craft = Craft()
    sealed = craft.enrolment(await hub.token())
    first = await hub.enrolment.enrol(sealed)
    before = await hub.snapshot()
    assert await hub.enrolment.enrol(sealed) == first
    assert await hub.snapshot() == before


async def test_tokens_that_do_not_fit(hub: Setup) -> None:
    bound, late = await hub.token("S1"), await hub.token()
    assert (await hub.refused(Craft("S2").enrolment(bound))).code == "enrol_token_wrong_serial"
    assert (await hub.refused(Craft("S2").enrolment("made-up"))).code == "enrol_token_unknown"
    hub.clock.move(hours=1)
    assert (await hub.refused(Craft("S2").enrolment(late))).code == "enrol_token_expired"


async def test_a_forged_enrolment_is_refused(hub: Setup) -> None:
    mine, other = Craft(), Craft()
    request = mine.enrolment(await hub.token(), device_key=other.device_key)
    error = await hub.refused(request)
    assert (type(error), error.code) == (TrustError, "bad_signature")
    with pytest.raises(SchemaError):
        await hub.enrolment.enrol(envelope(b'{"purpose":"other"}', mine.key.sign(b'{"purpose":"other"}')))


async def test_a_device_that_was_told_to_trust_other_roots_is_refused(hub: Setup) -> None:
    token = await hub.token()
    for field in ("image_root_sha256", "director_root_sha256"):
        assert (await hub.refused(Craft().enrolment(token, **{field: "9" * 64}))).code == "root_unknown"


async def test_without_a_token_a_device_waits_until_it_is_accepted(hub: Setup) -> None:
    craft = Craft()
    assert (await hub.enrolment.enrol(craft.enrolment())).state == "pending"
    with pytest.raises(NotAllowed) as waits:
        await hub.fleet.authenticate(craft.token)
    assert waits.value.code == "device_pending"
    hub.clock.move(minutes=5)
    assert await hub.enrolment.accept(OPERATOR, "S1") == craft.id
    assert await hub.fleet.authenticate(craft.token) == craft.id
    device = await hub.device(craft)
    assert device is not None
    assert device.accepted_at == hub.clock.now()
    assert (await hub.enrolment.enrol(craft.enrolment())).state == "accepted"
    before = await hub.snapshot()
    await hub.enrolment.accept(OPERATOR, craft.id)
    assert await hub.snapshot() == before


async def test_a_pending_device_is_accepted_by_a_token_that_it_gets_later(hub: Setup) -> None:
    craft = Craft()
    await hub.enrolment.enrol(craft.enrolment())
    assert (await hub.enrolment.enrol(craft.enrolment(await hub.token("S1")))).state == "accepted"
    assert (await hub.refused(Craft("S9").enrolment("made-up"))).code == "enrol_token_unknown"


async def test_a_preauthorised_key_is_accepted_for_its_serial_only(hub: Setup) -> None:
    fits, other = Craft("S1"), Craft("S2")
    for craft in (fits, other):
        await hub.enrolment.preauthorise(OPERATOR, craft.device_key, "S1")
    assert (await hub.enrolment.enrol(other.enrolment())).state == "pending"
    assert (await hub.enrolment.enrol(fits.enrolment())).state == "accepted"
    await hub.enrolment.preauthorise(OPERATOR, fits.device_key, "S1")
    with pytest.raises(ConflictError) as refused:
        await hub.enrolment.preauthorise(OPERATOR, fits.device_key, None)
    assert refused.value.code == "preauthorised_otherwise"


async def test_a_serial_in_use_is_refused_until_the_old_device_is_revoked(hub: Setup) -> None:
    old, new = Craft("S1"), Craft("S1")
    await hub.enrolment.enrol(old.enrolment(await hub.token()))
    token = await hub.token()
    assert (await hub.refused(new.enrolment(token))).code == "serial_taken"
    assert (await hub.refused(new.enrolment())).code == "serial_taken"
    await hub.enrolment.revoke(OPERATOR, "S1")
    assert (await hub.enrolment.enrol(new.enrolment(token))).state == "accepted"
    async with hub.database.reading() as session:
        states = {
            (identity, state) for identity, state in await session.execute(select(col(Device.id), col(Device.state)))
        }
    assert states == {(old.id, "revoked"), (new.id, "accepted")}


async def test_a_proven_device_takes_its_serial_from_one_that_only_waits(hub: Setup) -> None:
    squatter, genuine = Craft("S1"), Craft("S1")
    await hub.enrolment.enrol(squatter.enrolment())
    assert (await hub.enrolment.enrol(genuine.enrolment(await hub.token("S1")))).state == "accepted"
    held = await hub.device(squatter)
    assert held is not None
    assert held.state == "revoked"


async def test_another_devices_poll_token_cannot_be_enrolled(hub: Setup) -> None:
    victim, attacker = Craft("S1"), Craft("S2")
    await hub.enrolment.enrol(victim.enrolment(await hub.token()))
    attacker.token = victim.token
    assert (await hub.refused(attacker.enrolment(await hub.token()))).code == "token_taken"
    assert await hub.fleet.authenticate(victim.token) == victim.id


async def test_a_revoked_device_is_refused_at_the_next_poll_and_never_comes_back(hub: Setup) -> None:
    craft = Craft()
    await hub.enrolment.enrol(craft.enrolment(await hub.token()))
    assert await hub.enrolment.revoke(OPERATOR, craft.id) == craft.id
    with pytest.raises(NotAllowed) as refused:
        await hub.fleet.authenticate(craft.token)
    assert refused.value.code == "device_revoked"
    assert (await hub.refused(craft.enrolment(await hub.token()))).code == "device_revoked"
    with pytest.raises(ConflictError):
        await hub.enrolment.accept(OPERATOR, craft.id)
    before = await hub.snapshot()
    await hub.enrolment.revoke(OPERATOR, craft.id)
    assert await hub.snapshot() == before


async def test_an_action_of_a_revoked_device_does_not_stay_open(hub: Setup) -> None:
    craft = Craft()
    await hub.enrolment.enrol(craft.enrolment(await hub.token()))
    async with hub.database.unit_of_work() as uow:
        for version, state in ((1, "success"), (2, "open")):
            fields: dict[str, Any] = {"id": f"{craft.id}.{version}", "desired_version": version, "state": state}
            uow.session.add(Action(device_id=craft.id, releases="{}", created_at=hub.clock.now(), **fields))
        await uow.commit()
    await hub.enrolment.revoke(OPERATOR, craft.id)
    async with hub.database.reading() as session:
        actions = (await session.scalars(select(Action).order_by(col(Action.id)))).all()
    assert [(action.state, action.code, action.finished_at) for action in actions] == [
        ("success", "", None),
        ("cancelled", "device_revoked", hub.clock.now()),
    ]


async def test_only_so_many_strangers_may_wait(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdx_hub.services.devices.enrolment.MAX_PENDING", 2)
    for number in range(2):
        await hub.enrolment.enrol(Craft(f"S{number}").enrolment())
    assert (await hub.refused(Craft("S9").enrolment())).code == "too_many_pending"
    assert (await hub.enrolment.enrol(Craft("S8").enrolment(await hub.token()))).state == "accepted"


async def test_who_may_do_what_and_for_how_long(hub: Setup) -> None:
    craft = Craft()
    await hub.enrolment.enrol(craft.enrolment())
    before = await hub.snapshot()
    for call in (
        hub.enrolment.new_enrol_token(PUBLISHER, None, HOUR),
        hub.enrolment.preauthorise(PUBLISHER, craft.device_key, None),
        hub.enrolment.accept(PUBLISHER, craft.id),
        hub.enrolment.revoke(PUBLISHER, craft.id),
    ):
        with pytest.raises(NotAllowed):
            await call
    for life in (timedelta(0), MAX_ENROL_LIFE + timedelta(seconds=1)):
        with pytest.raises(BadInput):
            await hub.enrolment.new_enrol_token(OPERATOR, None, life)
    with pytest.raises(NotFound):
        await hub.enrolment.accept(OPERATOR, "d-nobody")
    assert await hub.snapshot() == before


async def test_devices_are_numbered_without_gaps_and_the_poll_knows_their_state(hub: Setup) -> None:
    first, second = Craft("S1"), Craft("S2")
    await hub.enrolment.enrol(first.enrolment())
    await hub.refused(Craft("S1").enrolment())
    await hub.enrolment.enrol(second.enrolment(await hub.token()))
    await hub.enrolment.revoke(OPERATOR, "S2")
    held = [await hub.device(craft) for craft in (first, second)]
    assert [device.number for device in held if device] == [1, 2]
    assert (hub.fleet.memory.versions[1], hub.fleet.memory.versions[2]) == (PENDING, REVOKED)
    assert hub.fleet.figures().devices == {"pending": 1, "accepted": 0, "revoked": 1}


async def test_a_request_that_is_too_large_is_not_even_decoded(hub: Setup) -> None:
    with pytest.raises(SchemaError, match="65536 are allowed"):
        await hub.enrolment.enrol(Craft().enrolment(enrol_token="x" * 65536))
    assert await hub.snapshot() == []


async def test_a_waiting_device_is_accepted_when_its_key_is_preauthorised_and_it_asks_again(hub: Setup) -> None:
    craft = Craft()
    assert (await hub.enrolment.enrol(craft.enrolment())).state == "pending"
    await hub.enrolment.preauthorise(OPERATOR, craft.device_key, "S1")
    assert (await hub.enrolment.enrol(craft.enrolment())).state == "accepted"
    assert await hub.fleet.authenticate(craft.token) == craft.id

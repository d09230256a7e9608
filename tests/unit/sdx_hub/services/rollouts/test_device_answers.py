"""A device's answer out of the rows, with a real engine on both databases, as things happen to it."""

from typing import Any

import pytest

from sdx_hub.domain.answers import Answer
from sdx_hub.domain.errors import NotAllowed, NotFound
from sdx_hub.domain.rollout.explaining_members import of_member
from sdx_hub.domain.rollout.policy import Gate, Limits, Soak
from sdx_hub.domain.rollout.standing import Membership
from sdx_hub.persistence.database import Database
from sdx_hub.services.devices.devices import DeviceService
from sdx_hub.services.devices.saved_filters import FilterService
from sdx_hub.services.rollouts.commands.pins import PinService
from sdx_hub.services.rollouts.showing.evidence import EvidenceService
from sdx_hub.services.rollouts.showing.explaining_rows import ExplainingService
from sdx_hub.services.rollouts.showing.memberships import MembershipService
from sdx_hub.services.rollouts.showing.views import FRESH_S, RolloutViews
from tests.unit.sdx_hub.services.conftest import OPERATOR, VIEWER, MovableClock
from tests.unit.sdx_hub.services.rollouts.members import SILENT_AFTER_S
from tests.unit.sdx_hub.services.rollouts.rolling import Rolling

OLD, NEW, CAMERA = "nav@1.0.0", "nav@2.0.0", "camera@1.0.0"
NEVER = Gate(base_rate=0.49, pause_at=1e6, halt_at=1e6, critical=())


class Asked(Rolling):
    """A hub that is asked about its devices."""

    def __init__(self, database: Database, clock: MovableClock) -> None:
        super().__init__(database, clock)
        self.memberships = MembershipService(database, clock)
        self.explaining = ExplainingService(database, clock)
        self.views = RolloutViews(database, clock)
        self.evidence = EvidenceService(database)

    async def places(self, serial: str) -> tuple[Membership, ...]:
        return (await self.memberships.of_device(VIEWER, serial)).rollouts

    async def why(self, serial: str) -> str:
        """Everything that its newest rollout says of it."""
        answer = of_member((await self.places(serial))[0], self.clock.now())
        return " | ".join((answer.verdict, *answer.reasons, *answer.changes))

    async def about(self, number: int, **about: Any) -> Answer:
        return await self.explaining.why(VIEWER, f"ro-{number}", **({"wave": None, "device": None} | about))


@pytest.fixture
async def hub(database: Database, clock: MovableClock) -> Asked:
    hub = Asked(database, clock)
    for release in (OLD, NEW, CAMERA):
        await hub.release(release)
    return hub


async def test_a_later_wave(hub: Asked) -> None:
    await hub.craft("A", "B", assigned=OLD)
    await hub.begin(1, NEW, waves=("serial = A", "100%"), soak=Soak(600))
    assert "planned | ro-1 will offer B nav@2.0.0 in wave 2 of 2. | Wave 1 comes first." in await hub.why("B")
    assert "waits for what is under way: 1 device." in await hub.why("B")
    await hub.ends("A")
    await hub.tick()
    assert "updated | It has committed nav@2.0.0" in await hub.why("A")
    assert "Wave 1 is watched for a while" in await hub.why("B")
    assert (await hub.about(1)).verdict == "waiting"
    assert (await hub.about(1, wave=1)).verdict == "waiting"
    assert (await hub.about(1, wave=2)).verdict == "planned"
    assert (await hub.about(1, device="B")).reasons == of_member((await hub.places("B"))[0], hub.clock.now()).reasons


async def test_a_site_that_is_full(hub: Asked) -> None:
    await hub.craft("A", "B", "C", assigned=OLD)
    for serial, site in (("A", "north"), ("B", "north"), ("C", "south")):
        await DeviceService(hub.database, hub.clock).set_attributes(OPERATOR, serial, {"site": site})
    await hub.begin(1, NEW, limits=Limits(site_in_flight=1))
    states = await hub.states(1)
    waiting = next(serial for serial, state in states.items() if state == "queued")
    assert waiting in {"A", "B"}
    assert "waiting | " in await hub.why(waiting)
    assert "1 device under way at the site north" in await hub.why(waiting)
    assert "said nothing of it yet" in await hub.why("C")


async def test_a_window_that_is_closed(hub: Asked) -> None:
    await hub.craft("A", assigned=OLD)
    await hub.begin(1, NEW, windows=("20:00-22:00",))
    assert "No window is open" in await hub.why("A")
    assert "Offers are made again at" in await hub.why("A")


async def test_another_rollout_has_it_first(hub: Asked) -> None:
    await hub.craft("A", assigned=OLD)
    await hub.begin(1, NEW)
    await hub.begin(2, CAMERA)
    first, second = (each.rollout.id for each in await hub.places("A"))
    assert (first, second) == ("ro-2", "ro-1")
    assert "ro-1 has it first: one update at a time" in await hub.why("A")


async def test_it_waits_for_the_ground_and_is_on_trial(hub: Asked) -> None:
    await hub.craft("A", assigned=OLD)
    await hub.begin(1, NEW)
    await hub.says("A", "READY")
    assert "waits for the ground" in await hub.why("A")
    await hub.says("A", "TRIAL")
    assert "on trial" in await hub.why("A")


async def test_it_is_off_or_silent_or_lost(hub: Asked) -> None:
    await hub.craft("off", "heard", "switched", assigned=OLD)
    hub.clock.move(seconds=10)
    await hub.begin(1, NEW, gate=NEVER)
    hub.clock.move(seconds=10)
    await hub.polls("heard", "switched")
    await hub.says("switched", "INSTALLING")
    hub.clock.move(seconds=SILENT_AFTER_S + 10)
    await hub.tick(2)
    assert "it is off. Nothing waits for it." in await hub.why("off")
    assert "and was not heard again for" in await hub.why("heard")
    assert "It counts against nav@2.0.0." in await hub.why("heard")
    assert "begun to switch to nav@2.0.0" in await hub.why("switched")
    silent = await hub.memberships.list(VIEWER, "ro-1", state="silent", wave=None, cursor=None, limit=10)
    assert [each.serial for each in silent.items] == ["heard"]


async def test_it_is_pinned_meanwhile(hub: Asked) -> None:
    await hub.craft("A", "B", assigned=OLD)
    await hub.begin(1, NEW, waves=("serial = A", "100%"))
    await PinService(hub.database, hub.clock).pin(OPERATOR, "B", "museum")
    assert "It is pinned: ro-1 leaves it out." in await hub.why("B")
    found = await hub.memberships.of_device(VIEWER, "B")
    assert found.pin is not None
    assert found.pin.reason == "museum"


async def test_it_is_in_no_wave(hub: Asked) -> None:
    await hub.craft("A", "has it", assigned=OLD)
    await hub.assigning.assign(OPERATOR, NEW, ["has it"])
    await hub.order(1, NEW, query='serial in (A, "has it")')
    assert (await hub.about(1, device="A")).verdict == "preparing"
    await hub.tick(2)
    await hub.craft("late", "other", assigned=OLD)
    assert "does not match the query" in (await hub.about(1, device="other")).reasons[1]
    assert "assigned to it already" in (await hub.about(1, device="has it")).reasons[1]
    await hub.begin(2, CAMERA)
    await hub.craft("later", assigned=OLD)
    assert "did not when the list of devices was written" in (await hub.about(2, device="later")).reasons[1]
    places = await hub.memberships.of_device(VIEWER, "has it")
    assert [(each.rollout, each.code) for each in places.left_out] == [("ro-1", "has_it")]
    assert [each.rollout.id for each in places.rollouts] == ["ro-2"]
    places = await hub.memberships.of_device(VIEWER, "later")
    assert [(each.rollout, each.code) for each in places.left_out] == [("ro-2", "")], (
        "what it does not match is no news"
    )
    for about in ({"device": "nobody"}, {"wave": 9}):
        with pytest.raises(NotFound):
            await hub.about(1, **about)


async def test_a_filter_that_was_deleted_meanwhile(hub: Asked) -> None:
    filters = FilterService(hub.database, hub.clock)
    await filters.save(OPERATOR, "north", "serial = A")
    await hub.craft("A", "B", assigned=OLD)
    await hub.begin(1, NEW, query="filter(north)")
    await filters.delete(OPERATOR, "north")
    assert (await hub.memberships.of_device(VIEWER, "B")).left_out == ()
    assert "does not match the query" in (await hub.about(1, device="B")).reasons[1]


async def test_a_version_of_it_is_another_one_whenever_something_is(hub: Asked) -> None:
    await hub.craft("A", "B", assigned=OLD)
    await hub.begin(1, NEW, waves=("serial = A", "100%"), soak=Soak(600))

    async def version() -> str:
        return (await hub.views.show(VIEWER, "ro-1")).version

    seen = [await version()]
    assert await version() == seen[0]
    assert (await hub.views.show(VIEWER, "ro-1", seen)).detail is None
    await hub.says("A", "DOWNLOADING")
    await hub.tick()
    seen.append(await version())
    await hub.ends("A")
    await hub.tick()
    seen.append(await version())
    hub.clock.move(seconds=FRESH_S)
    seen.append(await version())
    hub.clock.move(seconds=601)
    await hub.tick()
    seen.append(await version())
    assert len(set(seen)) == len(seen)


async def test_what_is_shown_is_what_is_there(hub: Asked) -> None:
    await hub.craft("A", "B", assigned=OLD)
    await hub.begin(1, NEW, waves=("1", "100%"), soak=Soak(600), gate=NEVER)
    first = next(serial for serial, state in (await hub.states(1)).items() if state == "offered")
    await hub.ends(first, "failed", "disk_full")
    await hub.tick()
    found = (await hub.views.show(VIEWER, "ro-1")).detail
    assert found is not None
    assert (found.members, found.wave, found.wave_count) == ({"failed": 1, "queued": 1}, 1, 2)
    assert found.gate is not None
    assert (found.gate.bad, found.waits_for) == (1, "quorum")
    assert [wave.members for wave in found.waves] == [{"failed": 1}, {"queued": 1}]
    listed = await hub.views.list(VIEWER, state="running", product="nav", cursor=None, limit=10)
    assert [(each.id, each.members) for each in listed.items] == [("ro-1", found.members)]
    outcomes = await hub.evidence.outcomes(VIEWER, "ro-1", cursor=None, limit=1)
    assert [(each.serial, each.was, each.state) for each in outcomes.items] == [(first, "queued", "offered")]
    more = await hub.evidence.outcomes(VIEWER, "ro-1", cursor=outcomes.following, limit=1)
    assert [(each.state, each.code) for each in more.items] == [("failed", "disk_full")]
    assert more.following is None
    member = (await hub.places(first))[0].member
    assert (member.state, member.code, member.attempt, member.previous) == ("failed", "disk_full", 1, OLD)
    assert member.since == hub.clock.now()


async def test_who_may_not_read(hub: Asked) -> None:
    class Nobody:
        name = "nobody"

        def require(self, _: object) -> None:
            raise NotAllowed("no")

    nobody: Any = Nobody()
    for refused in (
        hub.views.list(nobody, state=None, product=None, cursor=None, limit=1),
        hub.views.show(nobody, "ro-1"),
        hub.memberships.of_device(nobody, "A"),
        hub.memberships.list(nobody, "ro-1", state=None, wave=None, cursor=None, limit=1),
        hub.evidence.decisions(nobody, "ro-1", cursor=None, limit=1),
        hub.evidence.outcomes(nobody, "ro-1", cursor=None, limit=1),
        hub.explaining.why(nobody, "ro-1", wave=None, device=None),
    ):
        with pytest.raises(NotAllowed):
            await refused

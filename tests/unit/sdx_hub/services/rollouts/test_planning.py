"""A plan says who gets a release when, what it costs and what to think about, and changes nothing."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlmodel import SQLModel, col

from firmware_schemas.release import Component
from sdx_hub.adapters.blobs import Encoding
from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import BadInput, ConflictError, HubError, NotFound
from sdx_hub.domain.rollout.kinds import MAX_STRATA
from sdx_hub.domain.rollout.policy import Gate, Limits, Order, Soak
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.rollouts import RolloutDevice, RolloutOutcome, RolloutWave
from sdx_hub.services.rollouts.planning import choosing, link_loads
from sdx_hub.services.rollouts.planning.planning import PlanningService
from sdx_hub.services.rollouts.planning.plans import Plan, SiteShare
from sdx_hub.services.rollouts.planning.preparing import Preparer
from tests.unit.sdx_hub.services.conftest import START, VIEWER, MovableClock
from tests.unit.sdx_hub.services.rollouts.planned import DEFAULTS, PlannedFleet
from tests.unit.sdx_hub.services.rollouts.test_preparing import finish

PARTS = (
    Component("server", "file", "aa" * 32, 1_000),
    Component("camera", "file", "bb" * 32, 500, hardware=("quad-x4",)),
    Component("notes", "file", "cc" * 32, 70),
)


class Sizes:
    """A store that knows how large its compressed payloads are."""

    def __init__(self, **sizes: int) -> None:
        self._sizes = sizes

    async def stat(self, sha256: str, encoding: Encoding) -> int | None:
        return self._sizes.get(sha256[:2]) if encoding == "zstd" else None

    def read(self, sha256: str, encoding: Encoding, start: int, length: int) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError


class Setup(PlannedFleet):
    def __init__(self, database: Database, clock: MovableClock) -> None:
        super().__init__(database, clock)
        self.service = PlanningService(database, clock, Sizes(aa=400, bb=300), DEFAULTS)

    async def plan(self, release: str, principal: Principal = VIEWER, **order: Any) -> Plan:
        return await self.service.plan(principal, Order(release=release, **order))


@pytest.fixture
def hub(database: Database, clock: MovableClock) -> Setup:
    return Setup(database, clock)


async def two_kinds(hub: Setup, **release: Any) -> str:
    """17 of one kind, 7 of another, and a release with a way back."""
    for number in range(17):
        await hub.device(f"A{number:02}", site="north")
    for number in range(7):
        await hub.device(f"B{number}", hardware="quad-x4", site="south", link="lte")
    return await hub.release("steady@2.0.0", components=PARTS, **({"revert_counter": 100} | release))


def warned(plan: Plan, part: str) -> bool:
    return any(part in warning for warning in plan.warnings)


async def test_the_whole_of_it(hub: Setup) -> None:
    plan = await hub.plan(await two_kinds(hub), waves=("1", "3", "50%", "100%"))
    assert [(wave.wave, wave.label, wave.devices, wave.total) for wave in plan.waves] == [
        (1, "1", 1, 1),
        (2, "3", 2, 3),
        (3, "50%", 9, 12),
        (4, "100%", 12, 24),
    ]
    assert (plan.members, plan.matching, plan.left_out, plan.query) == (24, 24, [], "")
    assert plan.waves[3].strata == {"rpi4 / site=north": 8, "quad-x4 / site=south / link=lte": 4}
    assert [len(wave.first) for wave in plan.waves] == [1, 2, 5, 5]
    assert plan.order.soak == Soak(600)
    assert plan.order.silent_after_s == 3_600
    assert plan.warnings == []


async def test_bytes_are_those_of_the_components_that_fit_as_they_are_transported(hub: Setup) -> None:
    plan = await hub.plan(await two_kinds(hub), waves=("100%",))
    # `notes` is not stored compressed: it goes as it is.
    assert plan.waves[0].sites == [SiteShare("north", 17, 17 * (400 + 70)), SiteShare("south", 7, 7 * (400 + 300 + 70))]
    assert plan.waves[0].transported_bytes == plan.transported_bytes == 17 * 470 + 7 * 770


async def test_many_sites_are_told_in_short(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_loads, "MAX_SITES", 1)
    await hub.device("C0")
    plan = await hub.plan(await two_kinds(hub), waves=("100%",))
    assert plan.waves[0].sites == [SiteShare("north", 17, 7_990), SiteShare("(others)", 8, 7 * 770 + 470)]


async def test_a_plan_changes_nothing(hub: Setup) -> None:
    release = await two_kinds(hub)
    before = await counts(hub)
    await hub.plan(release)
    assert await counts(hub) == before


async def counts(hub: Setup) -> dict[str, int]:
    async with hub.database.reading() as session:
        return {
            table.name: await session.scalar(select(func.count()).select_from(table)) or 0
            for table in SQLModel.metadata.sorted_tables
        }


async def test_starting_takes_the_devices_that_the_plan_names(hub: Setup) -> None:
    release = await two_kinds(hub)
    order = hub.order(release, waves=("2", "50%", "tag = none", "100%"))
    plan = await hub.service.plan(VIEWER, order)
    await hub.rollout(order)
    await finish(hub, Preparer(hub.database, hub.clock))
    waves = await hub.rows(RolloutWave, col(RolloutWave.wave), col(RolloutWave.label), col(RolloutWave.size))
    assert waves == [(wave.wave, wave.label, wave.devices) for wave in plan.waves]
    members = await hub.rows(
        RolloutDevice, col(RolloutDevice.position), col(RolloutDevice.wave), col(RolloutDevice.number)
    )
    serials = {number: serial for serial, number in hub.numbers.items()}
    for wave in plan.waves:
        own = [serials[number] for _, its_wave, number in members if its_wave == wave.wave]
        assert own[: len(wave.first)] == [device.serial for device in wave.first]


async def test_who_is_left_out_and_why(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0", hardware=("rpi4",))
    for number in range(7):
        await hub.device(f"E{number}", hardware="esp32")
    await hub.device("P1")
    await hub.pinned("P1")
    for number in range(4):
        await hub.device(f"A{number}")
    plan = await hub.plan(release, query='serial ~ "*"', waves=("1", "75%"))
    assert [(each.code, each.devices, len(each.first)) for each in plan.left_out] == [
        ("wrong_hardware", 7, 5),
        ("no_wave", 1, 1),
        ("pinned", 1, 1),
    ]
    assert [device.serial for device in plan.left_out[0].first] == ["E0", "E1", "E2", "E3", "E4"]
    assert plan.left_out[0].sentence == "The release is not for their hardware."
    assert (plan.members, plan.matching) == (3, 12)
    assert warned(plan, "1 device is in no wave")


async def test_without_a_query_it_is_for_every_accepted_device_that_it_fits(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0", hardware=("rpi4",))
    await hub.device("A0")
    await hub.device("A1", state="pending")
    await hub.device("A2", hardware="esp32")
    await hub.device("A3", runs={"steady": "3.0.0"})
    plan = await hub.plan(release)
    assert (plan.members, [(each.code, each.devices) for each in plan.left_out]) == (1, [("newer_runs", 1)])


async def test_devices_of_a_group_come_in_its_wave_and_in_no_other(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0")
    for number in range(10):
        await hub.device(f"A{number}", tags=["vip"] * (number < 3) + ["beta"] * (number in {2, 3}))
    await hub.device("X1", tags=["vip", "out"])
    plan = await hub.plan(release, query="not tag = out", waves=("2", "tag = vip", "tag = beta", "tag = no", "100%"))
    assert [(wave.label, wave.devices) for wave in plan.waves] == [
        ("2", 2),
        ("tag = vip", 3),
        ("tag = beta", 1),
        ("100%", 4),
    ]
    assert {device.serial for device in plan.waves[1].first} == {"A0", "A1", "A2"}
    assert warned(plan, "No device is left for these waves: tag = no.")


async def test_devices_that_were_not_heard_for_a_day_come_last(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0")
    for number in range(6):
        await hub.device(f"A{number}", seen_ago_s=(None, 90_000, 60)[number % 3])
    plan = await hub.plan(release, waves=("2", "100%"))
    assert {device.serial for device in plan.waves[0].first} == {"A2", "A5"}
    assert not warned(plan, "have not been heard of for a day")
    assert warned(await hub.plan(release, waves=("3", "100%")), "1 of the 3 devices of the first wave")


async def test_times_are_made_of_what_is_known(hub: Setup) -> None:
    release = await two_kinds(hub, trial_s=60)
    plan = await hub.plan(release, waves=("4", "100%"), soak=Soak(1_000))
    device_s = 75 + 300 + 60
    assert (plan.starts_at, plan.waves[0].ends_at) == (START, START + timedelta(seconds=device_s + 1_000))
    assert plan.waves[1].starts_at == plan.waves[0].ends_at
    assert plan.ends_at == START + timedelta(seconds=2 * (device_s + 1_000))
    assert "435 s: 75 s until it polls, 300 s to download and install (assumed" in plan.assumptions[0]


async def test_limits_make_it_longer(hub: Setup) -> None:
    release = await two_kinds(hub)
    soak = Soak(0, flights=3)
    plan = await hub.plan(release, waves=("100%",), soak=soak, limits=Limits(in_flight=10))
    assert plan.ends_at == START + timedelta(seconds=3 * 375)
    plan = await hub.plan(release, waves=("100%",), soak=soak, limits=Limits(site_in_flight=2))
    assert plan.ends_at == START + timedelta(seconds=9 * 375)
    assert "how much devices fly is not known" in plan.assumptions[-1]


async def test_windows_make_it_later_and_the_urgent_lane_does_not_wait_for_them(hub: Setup) -> None:
    release = await two_kinds(hub)
    plan = await hub.plan(release, waves=("100%",), windows=("22:00-23:00",))
    assert plan.starts_at == START.replace(hour=22)
    plan = await hub.plan(release, waves=("100%",), windows=("22:00-23:00",), urgent="It burns.")
    assert plan.starts_at == START
    assert warned(plan, "the windows are ignored")


async def test_times_of_earlier_rollouts_count_more_than_what_is_assumed(hub: Setup) -> None:
    release = await two_kinds(hub)
    await hub.rollout(hub.order(release), state="finished")
    async with hub.database.unit_of_work() as uow:
        for number, took_s in enumerate((10, 20, 100, 3_000, 4_000), 1):
            for was, state, after_s in (
                ("queued", "offered", 0),
                ("offered", "trial", 5),
                ("trial", "committed", took_s),
            ):
                uow.session.add(
                    RolloutOutcome(
                        rollout=1,
                        number=number,
                        wave=1,
                        stratum=1,
                        was=was,
                        state=state,
                        time=START + timedelta(seconds=after_s),
                    )
                )
                await uow.session.flush()
        await uow.commit()
    plan = await hub.plan(release, waves=("100%",), soak=Soak(0))
    assert plan.ends_at == START + timedelta(seconds=100)
    assert "100 s from the offer to the commit, as half of the last ones did" in plan.assumptions[0]


@pytest.mark.parametrize(
    ("signed_by", "order", "waits", "said"),
    [
        ('["anna", "paul"]', {}, False, "anna and paul signed the release"),
        ('["anna", "paul"]', {"second_person": True}, True, "A second person was asked for"),
        ('["paul"]', {}, True, "Only paul signed the release"),
        ("[]", {}, True, "Nobody is known"),
    ],
)
async def test_the_approval(hub: Setup, signed_by: str, order: dict[str, Any], waits: bool, said: str) -> None:
    plan = await hub.plan(await two_kinds(hub, signed_by=signed_by), **order)
    assert plan.approval.second_person is waits
    assert said in plan.approval.sentence


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"query": "tag = nobody"}, "No device can get this release"),
        ({"waves": ("100%",)}, "There is one wave only"),
        ({"waves": ("20", "100%")}, "The first wave has 20 of the 24 devices"),
        ({"waves": ("100%",)}, "There are no devices left to compare with"),
        ({"gate": Gate(base_rate=0.2)}, "while up to 20% of the devices fail"),
        ({"soak": Soak(0)}, "There is no soak"),
        ({"silent_after_s": 100}, "one lost poll or two count as a failure"),
        ({"waves": ("20", "21", "22", "23", "24", "25", "100%")}, "No device is left for these waves: 25, 100%."),
    ],
)
async def test_warnings_of_the_order(hub: Setup, order: dict[str, Any], said: str) -> None:
    assert warned(await hub.plan(await two_kinds(hub), **order), said)


async def test_warnings_of_the_release_and_its_neighbours(hub: Setup) -> None:
    await hub.release("steady@1.5.0", must_pass=True)
    await hub.release("steady@2.5.0", must_pass=True)
    release = await two_kinds(hub, revert_counter=None)
    await hub.rollout(hub.order(release), number=7, state="paused")
    plan = await hub.plan(release)
    assert warned(plan, "allows no way back")
    assert warned(plan, "install steady@1.5.0 first")
    assert warned(plan, "Rollouts of the same product go on: ro-7.")
    assert not warned(plan, "steady@2.5.0")


async def test_devices_that_cannot_go_back_all_the_way_are_counted(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0", hardware=("rpi4",), revert_counter=150)
    await hub.device("far", runs={"steady": "1.4.9"})
    await hub.device("near", runs={"steady": "1.5.0"})
    await hub.device("none")
    await hub.device("other", hardware="esp32", runs={"steady": "1.0.0"})
    plan = await hub.plan(release, query='serial ~ "*"')
    assert warned(plan, "1 of the devices run something older than this release lets them go back to")


async def test_too_many_kinds_are_taken_together(hub: Setup) -> None:
    release = await hub.release("steady@2.0.0", revert_counter=100)
    for number in range(MAX_STRATA + 2):
        await hub.device(f"A{number:02}", site=f"site-{number:02}")
    plan = await hub.plan(release)
    assert warned(plan, "the small ones are taken together")
    assert plan.waves[-1].strata["(others)"] >= 1


@pytest.mark.parametrize(
    ("order", "refused", "code"),
    [
        ({"release": "steady@9.9.9"}, NotFound, "release_not_found"),
        ({"release": "steady@3.0.0"}, ConflictError, "release_not_published"),
        ({"query": "tag ="}, BadInput, "query_invalid"),
        ({"query": "filter(nobody)"}, BadInput, "filter_unknown"),
        ({"waves": ("50%", "10%")}, BadInput, "waves_invalid"),
        ({"waves": ("filter(nobody)",)}, BadInput, "filter_unknown"),
        ({"stratify": ("tag",)}, BadInput, "stratify_invalid"),
        ({"windows": ("at night",)}, BadInput, "window_invalid"),
        ({"gate": Gate(pause_at=20, halt_at=5)}, BadInput, "gate_invalid"),
    ],
)
async def test_what_is_refused(hub: Setup, order: dict[str, Any], refused: type[HubError], code: str) -> None:
    await hub.release("steady@2.0.0")
    await hub.release("steady@3.0.0", state="yanked")
    with pytest.raises(refused) as error:
        await hub.plan(**({"release": "steady@2.0.0"} | order))
    assert error.value.code == code


async def test_more_kinds_than_can_be_told_apart_are_refused(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "MAX_KINDS", 2)
    release = await hub.release("steady@2.0.0")
    for number in range(3):
        await hub.device(f"A{number}", site=f"site-{number}")
    with pytest.raises(BadInput) as refused:
        await hub.plan(release)
    assert refused.value.code == "strata_too_many"

"""Orders by tag and query: counted and not listed, in transactions that are short and can be taken up again."""

import json
import random
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlmodel import col

from sdx_hub.domain.errors import ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import Device, DeviceEvent
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.services.devices import assigning
from sdx_hub.services.devices.assigning import Counts
from tests.unit.sdx_hub.services.conftest import ADMIN, OPERATOR
from tests.unit.sdx_hub.services.devices.test_assigning import Setup, hub

__all__ = ["hub"]


async def test_by_query_the_answer_counts_and_names_a_few(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assigning, "SAMPLE", 2)
    monkeypatch.setattr(assigning, "CHUNK", 3)
    release = await hub.release("steady@1.0.0", hardware=("rpi4",))
    ids = [await hub.device(f"S{number}") for number in range(5)]
    for number in range(3):
        await hub.device(f"P{number}", "pending")
        await hub.device(f"R{number}", "revoked")
        await hub.device(f"E{number}", hardware="esp32")
    done = await hub.service.assign(OPERATOR, release, query='serial ~ "*"')
    assert done.assigned == ids[:2]
    assert done.counts == Counts(5, 0, {"device_pending": 3, "wrong_hardware": 3})
    assert len(done.refused) == 2
    again = await hub.service.assign(OPERATOR, release, query='serial ~ "S*"')
    assert (again.assigned, again.unchanged, again.counts) == ([], ids[:2], Counts(0, 5, {}))
    assert {state for _, state, _ in await hub.actions()} == {"open"}
    assert len(await hub.actions()) == 5


async def test_the_audit_log_says_whom_the_order_meant_and_how_many_got_it(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigning, "CHUNK", 2)
    release = await hub.release("steady@1.0.0")
    ids = [await hub.device(f"S{number}") for number in range(3)]
    await hub.service.assign(OPERATOR, release, query="state=accepted")
    details = [json.loads(row[1]) for row in await hub.rows(AuditEntry, col(AuditEntry.seq), col(AuditEntry.detail))]
    assert details == [
        {"query": "state=accepted", "devices": ids[:2], "count": 2},
        {"query": "state=accepted", "devices": ids[2:], "count": 1},
    ]


async def test_the_query_is_asked_before_anything_is_assigned(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first chunk does must not change whom the order means."""
    monkeypatch.setattr(assigning, "CHUNK", 1)
    first, second = await hub.release("steady@1.0.0"), await hub.release("steady@2.0.0")
    for number in range(3):
        await hub.device(f"S{number}")
    await hub.assign(first, "S0", "S1", "S2")
    done = await hub.service.assign(OPERATOR, second, query="assigned = steady@1.0.0 and action = open")
    assert done.counts == Counts(3, 0, {})


async def test_an_order_that_broke_off_leaves_whole_chunks_and_is_taken_up_again(
    hub: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigning, "CHUNK", 2)
    release = await hub.release("steady@1.0.0")
    ids = [await hub.device(f"S{number}") for number in range(5)]
    real = assigning.open_actions
    calls = 0

    async def power_cut(*args: Any, **keywords: Any) -> None:
        nonlocal calls
        calls += 1
        await real(*args, **keywords)
        if calls == 2:
            raise ConnectionError("the power is gone before the commit")

    monkeypatch.setattr(assigning, "open_actions", power_cut)
    with pytest.raises(ConnectionError):
        await hub.service.assign(OPERATOR, release, query="state = accepted")
    assert [action for action, _, _ in await hub.actions()] == sorted(f"{each}.1" for each in ids[:2])
    assert len(await hub.rows(Assignment, col(Assignment.device_id))) == 2
    assert {row[0] for row in await hub.rows(Device, col(Device.desired_version))} == {0, 1}
    done = await hub.service.assign(OPERATOR, release, query="state = accepted")
    assert done.counts == Counts(3, 2, {})
    assert await hub.rows(Device, col(Device.desired_version)) == [(1,)] * 5
    assert len(await hub.rows(DeviceEvent, col(DeviceEvent.id))) == 5


async def test_a_release_that_is_yanked_half_way_goes_no_further(hub: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assigning, "CHUNK", 1)
    release = await hub.release("steady@1.0.0")
    for number in range(3):
        await hub.device(f"S{number}")
    real = hub.service._assign

    async def and_then_yank(*args: Any) -> None:
        await real(*args)
        async with hub.database.unit_of_work() as uow:
            row = await uow.session.get(Release, release)
            assert row is not None
            row.state = "yanked"
            await uow.session.flush()
            await hub.service.unassign(uow, release, ADMIN.name)
            await uow.commit()

    monkeypatch.setattr(hub.service, "_assign", and_then_yank)
    with pytest.raises(ConflictError) as refused:
        await hub.service.assign(OPERATOR, release, query="state = accepted")
    assert refused.value.code == "release_not_published"
    assert await hub.rows(Assignment, col(Assignment.device_id)) == []
    assert {state for _, state, _ in await hub.actions()} == {"cancelled"}


async def test_the_number_of_statements_does_not_grow_with_the_devices(hub: Setup) -> None:
    release, other = await hub.release("steady@1.0.0"), await hub.release("camera@1.0.0")
    for number in range(40):
        await hub.device(f"S{number}")
    statements: list[str] = []
    engines = (hub.database.writer.sync_engine, hub.database._reader.sync_engine)

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    for engine in engines:
        event.listen(engine, "before_cursor_execute", count)
    needed = []
    for chosen in ("S1", "S*"):
        for each in (release, other):
            statements.clear()
            await hub.service.assign(OPERATOR, each, query=f'serial ~ "{chosen}"')
            needed.append(len(statements))
    for engine in engines:
        event.remove(engine, "before_cursor_execute", count)
    assert max(needed) <= min(needed) + 1, needed  # The unchanged one is looked up for its name.


async def test_random_fleets_obey_the_rules_one_by_one(hub: Setup) -> None:
    """The statements for many do to each device what the rules say for one; a seeded walk through all of them."""
    walk = random.Random(20260301)
    releases = [
        await hub.release(name, hardware=hardware)
        for name, hardware in (
            ("steady@1.0.0", ("any",)),
            ("steady@2.0.0", ("rpi4", "rpi5")),
            ("camera@1.0.0", ("rpi4",)),
        )
    ]
    fits = dict(zip(releases, [{"rpi4", "rpi5", "esp32"}, {"rpi4", "rpi5"}, {"rpi4"}], strict=True))
    devices: dict[str, dict[str, Any]] = {}
    for number in range(12):
        state, hardware = walk.choice(["accepted"] * 4 + ["pending"]), walk.choice(["rpi4", "rpi5", "esp32"])
        identity = await hub.device(f"S{number}", state, hardware=hardware)
        devices[identity] = {"state": state, "hardware": hardware, "held": {}, "version": 0, "last": "", "ended": {}}
    for _ in range(12):
        release = walk.choice(releases)
        product = release.partition("@")[0]
        expected = Counts()
        for device in devices.values():
            if device["state"] != "accepted":
                expected.refused["device_pending"] = expected.refused.get("device_pending", 0) + 1
            elif device["hardware"] not in fits[release]:
                expected.refused["wrong_hardware"] = expected.refused.get("wrong_hardware", 0) + 1
            elif device["held"].get(product) == release and device["last"] in {"open", "success"}:
                expected.unchanged += 1
            else:
                expected.assigned += 1
                device["held"][product] = release
                device["version"] += 1
                device["last"] = "open"
        done = await hub.service.assign(OPERATOR, release, query='serial ~ "S*"')
        assert done.counts == expected
        for identity, device in devices.items():
            if device["last"] == "open" and walk.random() < 0.6:
                device["last"] = walk.choice(["success", "failed", "rolled_back"])
                device["ended"][device["version"]] = device["last"]
                await hub.end(f"{identity}.{device['version']}", device["last"])
    for identity, device in devices.items():
        columns = (col(Action.desired_version), col(Action.state), col(Action.releases))
        async with hub.database.reading() as session:
            query = select(*columns).where(col(Action.device_id) == identity).order_by(col(Action.desired_version))
            actions = [tuple(row) for row in await session.execute(query)]
            told = (
                select(col(DeviceEvent.detail))
                .where(col(DeviceEvent.device_id) == identity)
                .order_by(col(DeviceEvent.id))
            )
            events = [json.loads(text) for text in await session.scalars(told)]
        assert [version for version, _, _ in actions] == list(range(1, device["version"] + 1))
        assert [each["desired_version"] for each in events] == list(range(1, device["version"] + 1))
        if actions:
            assert actions[-1][1] == device["last"]
            assert json.loads(actions[-1][2]) == device["held"] == events[-1]["releases"]
            for version, state, _ in actions[:-1]:
                assert state == device["ended"].get(version, "superseded"), "the first final result stays"


async def test_a_yank_takes_it_from_all_in_one_transaction(hub: Setup, database: Database) -> None:
    bad, good = await hub.release("steady@1.0.0"), await hub.release("camera@1.0.0")
    for number in range(30):
        await hub.device(f"S{number}")
    await hub.service.assign(OPERATOR, bad, query='serial ~ "*"')
    await hub.service.assign(OPERATOR, good, query='serial ~ "*1*"')
    async with database.unit_of_work() as uow:
        await hub.service.unassign(uow, bad, ADMIN.name)
        await uow.commit()
    held = await hub.rows(Assignment, col(Assignment.release_id), col(Assignment.device_id))
    assert {release for release, _ in held} == {good}
    async with database.reading() as session:
        assigned = await session.scalar(select(func.count()).where(col(Device.has_assignment)))
        changed = set(await session.scalars(select(col(Device.change_seq))))
    assert assigned == len(held) == 12
    assert len(changed) == 1, "one number for all of them"

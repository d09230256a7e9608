"""The database's answer is the language's answer."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select, text
from sqlmodel import col

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query import DeviceFacts, Query, expand, matches, parse
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device, InstalledComponent
from sdx_hub.persistence.tables.filters import SavedFilter
from sdx_hub.services.devices import selecting
from sdx_hub.services.devices.selecting import select_devices
from tests.support import queries
from tests.support.queries import NOW, numbered, plant, plant_releases

AT_ONCE = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def ids(session: object, text: str) -> list[str]:
    selection = await select_devices(session, text, NOW)  # type: ignore[arg-type]
    found = select(col(Device.id)).where(selection.condition).order_by(col(Device.number))
    return list(await session.scalars(found))  # type: ignore[attr-defined]


@given(fleet=queries.fleets.map(numbered), asked=st.lists(queries.queries(), min_size=1, max_size=6))
@AT_ONCE
async def test_both_answer_alike(database: Database, fleet: list[DeviceFacts], asked: list[Query]) -> None:
    async with database.unit_of_work() as uow:  # Never committed: the next example begins anew.
        await plant_releases(uow.session)
        await plant(uow.session, fleet)
        for query in asked:
            expected = [device.id for device in fleet if matches(query, device, NOW)]
            assert await ids(uow.session, str(query)) == expected, str(query)


@pytest.mark.parametrize(
    "value",
    [
        "x' OR '1'='1",
        "'; DROP TABLE device; --",
        '") OR 1=1 --',
        "%",
        "_",
        ":value",
        "?",
        "$1",
        "%(name)s",
        "[a-z]",
        "[",
        "\\",
    ],
)
async def test_a_value_is_never_part_of_the_statement(database: Database, value: str) -> None:
    quoted = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    victim = DeviceFacts(id="d-0", serial="s", hardware="h", state="accepted", enrolled_at=NOW)
    owner = DeviceFacts(
        id="d-1", serial=value, hardware=value, state="accepted", enrolled_at=NOW, attributes={"x": value}
    )
    async with database.unit_of_work() as uow:
        await plant(uow.session, [victim, owner])
        for field in ("serial", "hardware", "attribute.x"):
            assert await ids(uow.session, f"{field} = {quoted}") == ["d-1"]
            assert await ids(uow.session, f"{field} ~ {quoted}") == ["d-1"]
        for field in ("id", "tag", "runs", "assigned"):
            assert await ids(uow.session, f"{field} in ({quoted}, {quoted})") == []
        assert await uow.session.scalar(select(func.count()).select_from(Device)) == 2


async def test_the_statement_is_the_same_whatever_the_values(database: Database) -> None:
    async with database.reading() as session:
        statements = set()
        for value in ("a", "b' OR true --", "filter"):
            selection = await select_devices(session, f'tag = "{value}" and attribute.x ~ "{value}"', NOW)
            statements.add(str(selection.condition.compile(dialect=session.get_bind().dialect)))
    assert len(statements) == 1


async def test_a_version_that_nobody_runs_yet_matches_when_it_comes(database: Database) -> None:
    fleet = [
        DeviceFacts(
            id=f"d-{number}",
            serial=f"s{number}",
            hardware="h",
            state="accepted",
            enrolled_at=NOW,
            installed=frozenset({("mavsdk", f"3.{number}.0")}),
        )
        for number in range(12)
    ]
    async with database.unit_of_work() as uow:
        assert await ids(uow.session, "version(mavsdk) < 99") == []
        await plant(uow.session, fleet)
        assert await ids(uow.session, "version(mavsdk) < 3.2") == ["d-0", "d-1"]
        assert await ids(uow.session, "version(mavsdk) >= 3.9") == ["d-9", "d-10", "d-11"]
        assert await ids(uow.session, "version(mavsdk) in (3.4, v3.10.0)") == ["d-4", "d-10"]
        assert await ids(uow.session, "version(mavsdk) != 3.4 and id ~ d-*") == [
            f"d-{number}" for number in range(12) if number != 4
        ]


async def test_too_many_versions_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "MAX_VERSIONS", 3)
    device = DeviceFacts(id="d-0", serial="s", hardware="h", state="accepted", enrolled_at=NOW)
    async with database.unit_of_work() as uow:
        await plant(uow.session, [device])
        for count in range(1, 5):
            part = InstalledComponent(
                device_id="d-0",
                name=f"p{count}",
                type="file",
                product="mavsdk",
                version=f"1.{count}",
                release_counter=1,
                sha256="0" * 64,
            )
            uow.session.add(part)
            await uow.session.flush()
            if count <= 3:
                assert await ids(uow.session, "version(mavsdk) > 0") == ["d-0"]
        with pytest.raises(BadInput) as refused:
            await ids(uow.session, "version(mavsdk) > 0")
        assert refused.value.code == "query_too_broad"
        assert await ids(uow.session, "version(camera) > 0 or runs = mavsdk") == ["d-0"]


async def test_saved_filters_are_put_in_through_each_other(database: Database) -> None:
    device = DeviceFacts(
        id="d-0",
        serial="s",
        hardware="h",
        state="accepted",
        enrolled_at=NOW,
        tags=frozenset({"a"}),
        attributes={"x": "y"},
    )
    texts = {"outer": "filter(inner) and attribute.x = y", "inner": "tag = a or filter(deep)", "deep": "tag = b"}
    async with database.unit_of_work() as uow:
        await plant(uow.session, [device])
        rows = [{"name": name, "query": text, "author": "olga", "saved_at": NOW} for name, text in texts.items()]
        await uow.session.execute(insert(SavedFilter), rows)
        assert await ids(uow.session, "filter(outer)") == ["d-0"]
        assert await ids(uow.session, "not filter(inner)") == []
        with pytest.raises(BadInput) as refused:
            await ids(uow.session, "filter(outer) or filter(nobody)")
        assert refused.value.code == "filter_unknown"


async def test_the_deepest_query_runs(database: Database) -> None:
    """Each filter is three levels around the one before; the last that is allowed still becomes a statement."""
    async with database.unit_of_work() as uow:
        text = "tag = a"
        for number in range(12):
            row = {"name": f"f{number}", "query": text, "author": "olga", "saved_at": NOW}
            await uow.session.execute(insert(SavedFilter), [row])
            text = f"not (filter(f{number}) and serial = s)"
            assert await ids(uow.session, text) == []
        text = " and ".join(["not (serial = s"] * 6) + ")" * 6
        row = {"name": "last", "query": f"not (filter(f11) and {text})", "author": "olga", "saved_at": NOW}
        await uow.session.execute(insert(SavedFilter), [row])
        with pytest.raises(BadInput) as refused:
            await ids(uow.session, "not (not (filter(last) and serial = s) and serial = s)")
        assert refused.value.code == "query_too_large"


async def test_a_query_of_many_tests_and_values_runs(database: Database) -> None:
    many = {"f": parse(" or ".join(["tag = a"] * 100))}
    assert expand(parse(" and ".join(["filter(f)"] * 5)), many)
    async with database.unit_of_work() as uow:
        row = {"name": "f", "query": str(many["f"]), "author": "olga", "saved_at": NOW}
        await uow.session.execute(insert(SavedFilter), [row])
        assert await ids(uow.session, " and ".join(["filter(f)"] * 5)) == []
        assert await ids(uow.session, f"serial in ({', '.join(str(number) for number in range(500))})") == []
        with pytest.raises(BadInput) as refused:
            await ids(uow.session, " and ".join(["filter(f)"] * 6))
        assert refused.value.code == "query_too_large"
        await uow.session.execute(text("SELECT 1"))

"""A page of devices costs the same in a small fleet and in a large one: by its plan, and by counting statements."""

from typing import Any

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from sdx_hub.domain.query import DeviceFacts
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import DeviceTag
from sdx_hub.services.devices.devices import DeviceFilter, DeviceService
from sdx_hub.services.paging import encode_cursor
from tests.support.queries import NOW, plant
from tests.unit.sdx_hub.services.conftest import VIEWER, MovableClock

DEVICES = 3_000


@pytest.fixture
async def large(database: Database) -> Database:
    """Large enough that a full scan is never the better plan."""
    fleet = [
        DeviceFacts(
            id=f"d-{number:05}",
            serial=f"s-{number:05}",
            hardware=f"hw-{number % 5}",
            state="accepted",
            enrolled_at=NOW,
            tags=frozenset({"common"}),
            installed=frozenset({("mavsdk", f"3.{number % 7}.0")}),
        )
        for number in range(DEVICES)
    ]
    async with database.unit_of_work() as uow:
        await plant(uow.session, fleet)
        rare = [{"device_id": f"d-{number:05}", "tag": "rare"} for number in (5, 2_000)]
        await uow.session.execute(insert(DeviceTag), rare)
        await uow.commit()
    async with database.schema_change() as connection:
        await connection.execute(text("ANALYZE"))
    return database


async def plans(database: Database, wanted: DeviceFilter, cursor: str | None) -> tuple[list[str], int]:
    """The plan of each statement of one page, and how many statements there were."""
    devices = DeviceService(database, MovableClock())
    statements: list[tuple[str, Any]] = []
    engine = database._reader.sync_engine

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.lstrip().startswith(("SELECT device.", "WITH")):
            statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    page = await devices.list(VIEWER, wanted, cursor=cursor, limit=10)
    event.remove(engine, "before_cursor_execute", note)
    assert page.items
    async with database.reading() as session:
        return [await _explained(session, *each) for each in statements], len(statements)


async def _explained(session: AsyncSession, statement: str, parameters: Any) -> str:
    prefix = "EXPLAIN QUERY PLAN " if session.get_bind().dialect.name == "sqlite" else "EXPLAIN "
    connection = await session.connection()
    rows = await connection.exec_driver_sql(prefix + statement, parameters)
    return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize("cursor", [None, encode_cursor(DEVICES // 2)], ids=["first", "middle"])
@pytest.mark.parametrize(
    "wanted",
    [DeviceFilter(), DeviceFilter(state="accepted"), DeviceFilter(query="hardware = hw-1 and state = accepted")],
    ids=["plain", "state", "query"],
)
async def test_a_page_follows_an_index(large: Database, wanted: DeviceFilter, cursor: str | None) -> None:
    explained, _ = await plans(large, wanted, cursor)
    (first, *_rest) = explained
    assert "Seq Scan on device" not in first
    assert "SCAN device\n" not in f"{first}\n", first
    if wanted == DeviceFilter():
        assert "TEMP B-TREE" not in first, "the index has the order of the pages"
        assert "Sort" not in first


async def test_a_rare_tag_is_found_by_its_index(large: Database) -> None:
    explained, _ = await plans(large, DeviceFilter(query="tag = rare"), None)
    assert "ix_device_tag_tag" in explained[0]
    assert "Seq Scan on device" not in explained[0]
    assert "SCAN device\n" not in f"{explained[0]}\n"


async def test_a_page_takes_as_many_statements_for_ten_devices_as_for_one(large: Database) -> None:
    counts = []
    for limit in (1, 10, 100):
        seen: list[str] = []
        engine = large._reader.sync_engine

        def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any, seen: list[str] = seen) -> None:
            seen.append(statement)

        event.listen(engine, "before_cursor_execute", count)
        page = await DeviceService(large, MovableClock()).list(VIEWER, DeviceFilter(), cursor=None, limit=limit)
        event.remove(engine, "before_cursor_execute", count)
        assert len(page.items) == limit
        counts.append(len(seen))
    assert len(set(counts)) == 1

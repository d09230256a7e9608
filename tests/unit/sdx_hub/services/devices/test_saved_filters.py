import json

import pytest
from sqlmodel import col

from firmware_schemas.errors import InvalidName
from sdx_hub.domain.errors import BadInput, ConflictError, NotAllowed, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.services.devices import saved_filters
from sdx_hub.services.devices.saved_filters import FilterService, FilterView
from tests.unit.sdx_hub.services.conftest import ADMIN, OPERATOR, PUBLISHER, START, VIEWER, MovableClock
from tests.unit.sdx_hub.services.devices.test_assigning import Setup as Fleet
from tests.unit.sdx_hub.services.devices.test_assigning import hub as fleet

__all__ = ["fleet"]


@pytest.fixture
def filters(database: Database, clock: MovableClock) -> FilterService:
    return FilterService(database, clock)


async def names(filters: FilterService) -> list[str]:
    return [each.name for each in (await filters.list(VIEWER, cursor=None, limit=100)).items]


async def audited(fleet: Fleet) -> list[tuple[str, ...]]:
    columns = (col(AuditEntry.seq), col(AuditEntry.actor), col(AuditEntry.action), col(AuditEntry.subject))
    return [row[1:] for row in await fleet.rows(AuditEntry, *columns)]


async def test_a_filter_is_kept_in_its_canonical_form(filters: FilterService, fleet: Fleet) -> None:
    saved = await filters.save(OPERATOR, "spring", "tag=spring AND state = accepted")
    assert saved == FilterView("spring", "tag = spring and state = accepted", "olga", START)
    fleet.clock.move(hours=1)
    assert await filters.save(ADMIN, "spring", "tag = spring and state=accepted") == saved, "it says the same"
    changed = await filters.save(ADMIN, "spring", "tag = spring")
    assert (changed.query, changed.author) == ("tag = spring", "adam")
    assert await filters.show(VIEWER, "spring") == changed
    assert await audited(fleet) == [("olga", "filter.save", "spring"), ("adam", "filter.save", "spring")]
    details = [json.loads(row[1]) for row in await fleet.rows(AuditEntry, col(AuditEntry.seq), col(AuditEntry.detail))]
    assert details == [{"query": "tag = spring and state = accepted"}, {"query": "tag = spring"}]


async def test_filters_are_used_by_others_and_never_in_a_circle(filters: FilterService) -> None:
    await filters.save(OPERATOR, "north", "attribute.site = north")
    await filters.save(OPERATOR, "spring", "filter(north) and tag = spring")
    for name, query, code in (
        ("north", "filter(spring) or tag = a", "filter_circular"),
        ("north", "filter(north)", "filter_circular"),
        ("other", "filter(nobody)", "filter_unknown"),
        ("other", "filter(", "query_invalid"),
    ):
        with pytest.raises(BadInput) as refused:
            await filters.save(OPERATOR, name, query)
        assert refused.value.code == code
    assert (await filters.show(VIEWER, "north")).query == "attribute.site = north"
    assert await names(filters) == ["north", "spring"]


async def test_a_filter_that_others_use_stays(filters: FilterService, fleet: Fleet) -> None:
    await filters.save(OPERATOR, "north", "attribute.site = north")
    await filters.save(OPERATOR, "spring", "not filter(north)")
    await filters.save(OPERATOR, "text", 'attribute.note = "filter(spring)"')
    with pytest.raises(ConflictError) as refused:
        await filters.delete(OPERATOR, "north")
    assert (refused.value.code, refused.value.extra) == ("filter_in_use", {"used_by": ["spring"]})
    await filters.delete(OPERATOR, "spring")
    await filters.delete(OPERATOR, "north")
    assert await names(filters) == ["text"]
    assert [row[1:] for row in await audited(fleet)][3:] == [("filter.delete", "spring"), ("filter.delete", "north")]


async def test_what_somebody_else_changed_is_not_overwritten(filters: FilterService) -> None:
    seen = await filters.save(OPERATOR, "spring", "tag = a")
    await filters.save(ADMIN, "spring", "tag = b")
    for call in (
        filters.save(OPERATOR, "spring", "tag = c", expected=seen),
        filters.delete(OPERATOR, "spring", expected=seen),
        filters.save(OPERATOR, "gone", "tag = c", expected=seen),
    ):
        with pytest.raises(ConflictError) as refused:
            await call
        assert refused.value.code == "filter_changed"
    assert (await filters.show(VIEWER, "spring")).query == "tag = b"


async def test_names_and_numbers_are_bounded(filters: FilterService, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "A", "a b", "../a", "x" * 65, "a)"):
        with pytest.raises(InvalidName):
            await filters.save(OPERATOR, name, "tag = a")
    monkeypatch.setattr(saved_filters, "MAX_FILTERS", 2)
    for name in ("a", "b", "b"):
        await filters.save(OPERATOR, name, "tag = a")
    with pytest.raises(ConflictError) as refused:
        await filters.save(OPERATOR, "c", "tag = a")
    assert refused.value.code == "too_many_filters"


async def test_filters_in_pages(filters: FilterService) -> None:
    for name in ("c", "a", "b"):
        await filters.save(OPERATOR, name, "tag = a")
    first = await filters.list(VIEWER, cursor=None, limit=2)
    assert [each.name for each in first.items] == ["a", "b"]
    last = await filters.list(VIEWER, cursor=first.following, limit=2)
    assert ([each.name for each in last.items], last.following) == (["c"], None)


async def test_who_may_do_what(filters: FilterService) -> None:
    await filters.save(OPERATOR, "spring", "tag = a")
    for principal in (VIEWER, PUBLISHER):
        assert (await filters.show(principal, "spring")).query == "tag = a"
        for call in (filters.save(principal, "spring", "tag = b"), filters.delete(principal, "spring")):
            with pytest.raises(NotAllowed):
                await call
    with pytest.raises(NotFound) as refused:
        await filters.show(VIEWER, "x" * 10_000)
    assert refused.value.code == "filter_not_found"
    assert len(str(refused.value)) < 200

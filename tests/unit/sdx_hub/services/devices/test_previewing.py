import pytest
from sqlalchemy import text

from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import BadInput, Unavailable
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.deadlines import deadline
from sdx_hub.services.devices import previewing
from sdx_hub.services.devices.devices import DeviceFilter, DeviceService
from sdx_hub.services.devices.previewing import OTHERS, PreviewService
from tests.unit.sdx_hub.services.conftest import OPERATOR, PUBLISHER, VIEWER
from tests.unit.sdx_hub.services.devices.test_devices import Setup, fleet, hub

__all__ = ["fleet", "hub"]


@pytest.fixture
async def previews(hub: Setup) -> PreviewService:
    for number, (state, hardware) in enumerate(
        [("accepted", "rpi4"), ("accepted", "rpi4"), ("accepted", "esp32"), ("pending", "rpi4"), ("revoked", "rpi4")], 1
    ):
        await hub.fleet.device(f"S{number}", state, hardware=hardware)
    await hub.inventory("S1", "steady", "1.0.0")
    await hub.inventory("S2", "steady", "1.0.0")
    await hub.inventory("S3", "steady", "2.0.0")
    return PreviewService(hub.fleet.database, hub.fleet.clock)


async def test_a_preview_counts_by_state_hardware_and_version(previews: PreviewService) -> None:
    for principal in (VIEWER, OPERATOR, PUBLISHER):
        shown = await previews.preview(principal, 'serial ~ "S*"', "steady")
        assert (shown.query, shown.count) == ('serial ~ "S*"', 5)
        assert shown.by_state == {"accepted": 3, "pending": 1, "revoked": 1}
        assert shown.by_hardware == {"rpi4": 4, "esp32": 1}
        assert shown.by_version == {"1.0.0": 2, "2.0.0": 1}
        assert [device.serial for device in shown.sample] == ["S1", "S2", "S3", "S4", "S5"]
    narrow = await previews.preview(VIEWER, "hardware = rpi4 and state = accepted and version(steady) < 2")
    assert (narrow.count, narrow.by_state, narrow.by_version) == (2, {"accepted": 2}, {})
    nobody = await previews.preview(VIEWER, "tag = nobody", "steady")
    assert (nobody.count, nobody.by_state, nobody.by_hardware, nobody.by_version, nobody.sample) == (0, {}, {}, {}, [])


async def test_many_kinds_do_not_make_the_answer_large(
    previews: PreviewService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previewing, "MAX_KINDS", 1)
    monkeypatch.setattr(previewing, "SAMPLE", 2)
    shown = await previews.preview(VIEWER, "serial ~ S*", "steady")
    assert (shown.count, shown.by_state) == (5, {"accepted": 3, "pending": 1, "revoked": 1})
    assert shown.by_hardware == {"rpi4": 4, OTHERS: 1}
    assert shown.by_version == {"1.0.0": 2, OTHERS: 1}
    assert len(shown.sample) == 2


async def test_a_query_that_takes_too_long_is_stopped_and_the_next_one_is_answered(
    database: Database,
) -> None:
    """A query over a thousand million rows that nobody has to insert: the deadline is what ends it."""
    long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT max(i) FROM n"
    for _ in range(2):  # Twice: the connection goes back to the pool as good as it was.
        with pytest.raises(Unavailable) as refused:
            async with database.reading() as session, deadline(session, 0.2):
                await session.execute(text(long))
        assert refused.value.code == "query_timeout"
        async with database.reading() as session, deadline(session, 60):
            assert await session.scalar(text("SELECT 1")) == 1
    async with database.reading() as session, deadline(session, 60):
        with pytest.raises(BadInput):
            raise BadInput("whatever else goes wrong stays what it is")


async def test_a_bad_query_is_refused_wherever_one_can_be_written(hub: Setup, previews: PreviewService) -> None:
    devices = DeviceService(hub.fleet.database, hub.fleet.clock)
    release = await hub.fleet.release("steady@3.0.0")
    calls = (
        previews.preview(VIEWER, "tga = a"),
        devices.list(VIEWER, DeviceFilter(query="tga = a"), cursor=None, limit=10),
        hub.fleet.service.assign(OPERATOR, release, query="tga = a"),
    )
    for call in calls:
        with pytest.raises(BadInput) as refused:
            await call
        assert (refused.value.code, refused.value.extra["position"]) == ("query_invalid", 0)


async def test_a_list_by_query_goes_with_the_other_filters_and_in_pages(hub: Setup, previews: PreviewService) -> None:
    devices = DeviceService(hub.fleet.database, hub.fleet.clock)

    async def serials(
        principal: Principal, wanted: DeviceFilter, cursor: str | None = None
    ) -> tuple[list[str], str | None]:
        page = await devices.list(principal, wanted, cursor=cursor, limit=2)
        return [device.serial for device in page.items], page.following

    first, cursor = await serials(VIEWER, DeviceFilter(query="not hardware = esp32"))
    assert first == ["S1", "S2"]
    assert (await serials(VIEWER, DeviceFilter(query="not hardware = esp32"), cursor))[0] == ["S4", "S5"]
    assert (await serials(VIEWER, DeviceFilter(query="hardware = rpi4", state="pending")))[0] == ["S4"]
    assert (await serials(VIEWER, DeviceFilter(query="runs = steady", product="steady", version="2.0.0")))[0] == ["S3"]

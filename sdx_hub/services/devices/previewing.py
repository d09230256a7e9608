"""Who a query matches, before anything is done to them."""

from collections import Counter as Tally
from typing import Final

from msgspec import Struct
from sqlalchemy import func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.deadlines import deadline
from sdx_hub.persistence.tables.devices import Device, InstalledComponent
from sdx_hub.services.devices.selecting import Condition, select_devices

QUERY_DEADLINE_S: Final = 10.0
"""For each statement of a query that a person wrote."""
SAMPLE: Final = 10
MAX_KINDS: Final = 100
OTHERS: Final = "(others)"
"""Stands for what is left out of a list of counts."""


class SampleDevice(Struct, frozen=True):
    """One of the devices that match."""

    id: str
    serial: str
    hardware: str
    state: str


class Preview(Struct, frozen=True):
    """Who matches.

    Attributes:
        query: In its canonical form.
        count: Devices in every state; only accepted ones get a release.
        by_hardware, by_version: The most frequent ones, and `(others)`.
        by_version: Of the product that was asked for, with every device that runs it.
        sample: Some of them, whichever the database comes upon first.
    """

    query: str
    count: int
    by_state: dict[str, int]
    by_hardware: dict[str, int]
    by_version: dict[str, int]
    sample: list[SampleDevice]


class PreviewService:
    def __init__(self, database: Database, clock: Clock, deadline_s: float = QUERY_DEADLINE_S) -> None:
        self._database = database
        self._clock = clock
        self._deadline_s = deadline_s

    async def preview(self, principal: Principal, text: str, product: str = "") -> Preview:
        """Count the devices that match.

        Args:
            principal: Who asks.
            text: The query.
            product: Count its versions, too.

        Raises:
            NotAllowed: The role may not read.
            BadInput: The query is none (see `select_devices`).
            Unavailable: It took too long (code `query_timeout`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session, deadline(session, self._deadline_s):
            selection = await select_devices(session, text, self._clock.now())
            by_state, by_hardware = await _kinds(session, selection.condition)
            return Preview(
                query=selection.query,
                count=sum(by_state.values()),
                by_state=by_state,
                by_hardware=by_hardware,
                by_version=await _versions(session, selection.condition, product) if product else {},
                sample=await _sample(session, selection.condition),
            )


async def _kinds(session: AsyncSession, matching: Condition) -> tuple[dict[str, int], dict[str, int]]:
    """By state and by hardware, in one pass; what a stranger calls its hardware does not make the answer large."""
    kinds = (
        select(col(Device.state), col(Device.hardware), func.count().label("devices"))
        .where(matching)
        .group_by(col(Device.state), col(Device.hardware))
        .cte("kinds")
    )
    devices = func.sum(kinds.c.devices).label("devices")
    states = select(literal("state"), kinds.c.state, devices).group_by(kinds.c.state)
    frequent = (
        select(literal("hardware"), kinds.c.hardware, devices)
        .group_by(kinds.c.hardware)
        .order_by(devices.desc(), kinds.c.hardware)
        .limit(MAX_KINDS)
        .subquery()
    )
    counted: dict[str, Tally[str]] = {"state": Tally(), "hardware": Tally()}
    for what, name, count in await session.execute(states.union_all(select(*frequent.c))):
        counted[what][name] = int(count)
    by_state = dict(counted["state"].most_common())
    return by_state, _with_others(counted["hardware"], counted["state"].total())


async def _versions(session: AsyncSession, matching: Condition, product: str) -> dict[str, int]:
    version, device = col(InstalledComponent.version), col(InstalledComponent.device_id)
    counts = (
        select(version, func.count(device.distinct()).label("devices"))
        .join(Device, col(Device.id) == device)
        .where(matching, col(InstalledComponent.product) == product)
        .group_by(version)
        .cte("counts")
    )
    rows = await session.execute(
        select(counts.c.version, counts.c.devices, func.sum(counts.c.devices).over())
        .order_by(counts.c.devices.desc(), counts.c.version)
        .limit(MAX_KINDS)
    )
    total, by_version = 0, Tally[str]()
    for name, devices, whole in rows:
        total, by_version[name] = int(whole), devices
    return _with_others(by_version, total)


def _with_others(counted: Tally[str], total: int) -> dict[str, int]:
    rest = total - counted.total()
    return dict(counted.most_common()) | ({OTHERS: rest} if rest else {})


async def _sample(session: AsyncSession, matching: Condition) -> list[SampleDevice]:
    columns = (col(Device.id), col(Device.serial), col(Device.hardware), col(Device.state))
    rows = await session.execute(select(*columns).where(matching).limit(SAMPLE))  # Sorted, all would have to be read.
    return sorted((SampleDevice(*row) for row in rows), key=lambda device: device.serial)

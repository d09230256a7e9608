"""Who is in a rollout, in which wave and at which place: looked up once, in one snapshot of the database.

A plan and a rollout that is prepared ask the same and get the same. There may be a million devices: they are streamed
into arrays, 16 bytes for each, and put in order outside of the event loop.
"""

import asyncio
from array import array
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Final

from msgspec import Struct, field
from sqlalchemy import Select, and_, case, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from firmware_schemas.release import decode_manifest
from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query.terms import ATTRIBUTE
from sdx_hub.domain.rollout.kinds import name_of, strata_of
from sdx_hub.domain.rollout.ordering import interleave, place
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.domain.rollout.waves import Group, Wave, parse_waves, sizes
from sdx_hub.persistence.tables.devices import Device, DeviceAttribute, DeviceEvent, DeviceSeen
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.services.devices.selecting import Condition, select_devices
from sdx_hub.services.devices.suiting import fits
from sdx_hub.services.rollouts.eligibility import ELIGIBLE, eligibility

ABSENT_AFTER: Final = timedelta(days=1)
"""Devices that were not heard for so long come after the others: a first wave of them would tell nothing."""
SAMPLE: Final = 5
MAX_KINDS: Final = 250_000
_ROWS: Final = 10_000
_NO_GROUP: Final = -1
_INDEX_BITS: Final = 32
_INDEX_MASK: Final = 2**_INDEX_BITS - 1


class ChosenWave(Struct, frozen=True):
    """A wave that has devices.

    Attributes:
        label: As it was ordered.
        size: Devices.
    """

    label: str
    size: int


class Left(Struct):
    """Devices that match and are no members.

    Attributes:
        first: Numbers of some of them, the smallest ones.
    """

    devices: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        self.devices += 1
        if len(self.first) < SAMPLE or number < self.first[-1]:
            self.first = sorted([*self.first, number])[:SAMPLE]


class Alike(Struct, frozen=True):
    """Devices that are the same in everything that counts here.

    Attributes:
        stratum: Its number, from 1.
        site: Empty where they have none.
        absent: They have not been heard of for `ABSENT_AFTER`.
    """

    stratum: int
    site: str
    hardware: str
    absent: bool


class Chosen(Struct):
    """The members in the order of their positions, which begin with 1.

    Attributes:
        waves: Only those that have devices, but always one.
        strata: Names, in the order of their numbers.
        numbers: Of the devices.
        alike: For each of them the index of what it is in `kinds`.
        left_out: By code.
        events_through: Id of the last device event that was there.
    """

    waves: list[ChosenWave]
    strata: list[str]
    kinds: list[Alike]
    numbers: "array[int]"
    alike: "array[int]"
    left_out: dict[str, Left]
    events_through: int

    def spans(self) -> Iterator[tuple[ChosenWave, range]]:
        """Each wave, with the indices of its members."""
        start = 0
        for wave in self.waves:
            yield wave, range(start, start + wave.size)
            start += wave.size

    def counted(self, members: range) -> Iterator[tuple[Alike, int]]:
        """How many of these members are of each kind."""
        for index, count in Tally(self.alike[members.start : members.stop]).items():
            yield self.kinds[index], count

    def is_absent(self, index: int) -> bool:
        return self.kinds[self.alike[index]].absent


class _Found(Struct):
    """Candidates as they came from the database.

    Attributes:
        alike: For each of them the index of what it is in `kinds`: group, absent, site, hardware, what waves are
            balanced by.
    """

    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    alike: "array[int]" = field(default_factory=lambda: array("l"))
    kinds: dict[tuple[Any, ...], int] = field(default_factory=dict)
    left_out: dict[str, Left] = field(default_factory=dict)


async def choose(session: AsyncSession, order: Order, release: Release, *, seed: int, now: datetime) -> Chosen:
    """Find the members of a rollout and put them in order.

    Args:
        session: A reading one; the caller sets its deadline.
        order: With every default filled in.
        release: Its release.
        seed: Of the order within a stratum.
        now: UTC.

    Raises:
        BadInput: The waves or a query are none, or there are too many kinds (code `strata_too_many`).
    """
    waves = parse_waves(order.waves)
    events_through = int(await session.scalar(select(func.max(col(DeviceEvent.id)))) or 0)
    meant = await matching(session, order, release, now)
    rows = await candidates(session, order, release, waves, now)
    found = await _find(session, rows.where(meant))
    return await asyncio.to_thread(_arrange, found, order, waves, seed, events_through)


async def matching(session: AsyncSession, order: Order, release: Release, now: datetime) -> Condition:
    """Devices that the order means, whether they can get the release or not.

    Raises:
        BadInput: The query is none (see `select_devices`).
    """
    if order.query.strip():
        return (await select_devices(session, order.query, now)).condition
    return and_(col(Device.state) == "accepted", fits(decode_manifest(release.manifest)))


async def candidates(
    session: AsyncSession, order: Order, release: Release, waves: Sequence[Wave], now: datetime
) -> Select[Any]:
    """A row for each device: number, verdict, group, absent, site, hardware, and what it has for each `stratify`."""
    verdict = await eligibility(
        session, release, decode_manifest(release.manifest), downgrade=bool(order.downgrade.strip())
    )
    groups = [wave for wave in waves if isinstance(wave, Group)]
    of_group = [
        ((await select_devices(session, group.label, now)).condition, literal(index))
        for index, group in enumerate(groups)
    ]
    heard_after_s = int((now - ABSENT_AFTER).timestamp())
    named = (*order.stratify, ATTRIBUTE + order.limits.site_attribute)
    held = {
        name: aliased(DeviceAttribute, name=f"attribute_{index}")
        for index, name in enumerate(dict.fromkeys(name for name in named if name.startswith(ATTRIBUTE)))
    }
    site = held[ATTRIBUTE + order.limits.site_attribute]
    rows = select(
        col(Device.number),
        verdict,
        case(*of_group, else_=_NO_GROUP) if of_group else literal(_NO_GROUP),
        func.coalesce(col(DeviceSeen.last_seen_s), 0) < heard_after_s,
        func.coalesce(col(site.value), ""),
        col(Device.hardware),
        *(col(held[name].value) if name in held else col(Device.hardware) for name in order.stratify),
    )
    rows = rows.outerjoin(DeviceSeen, col(DeviceSeen.number) == col(Device.number))
    for name, table in held.items():
        same = col(table.device_id) == col(Device.id)
        rows = rows.outerjoin(table, and_(same, col(table.name) == name.removeprefix(ATTRIBUTE)))
    return rows


async def _find(session: AsyncSession, rows: Select[Any]) -> _Found:
    found = _Found()
    if session.get_bind().dialect.name == "postgresql":
        # All rows will be fetched: a plan that has the first ones early takes longer.
        await session.execute(select(func.set_config("cursor_tuple_fraction", "1", True)))
    # Of the connection: the session would look at each row once more.
    stream = await (await session.connection()).stream(rows, execution_options={"yield_per": _ROWS})
    numbers, alike, kinds = found.numbers, found.alike, found.kinds
    async for part in stream.partitions():
        for row in part:
            if row[1] == ELIGIBLE:
                numbers.append(row[0])
                alike.append(kinds.setdefault(row[2:], len(kinds)))
            else:
                found.left_out.setdefault(row[1], Left()).add(row[0])
        if len(kinds) > MAX_KINDS:
            raise BadInput(
                f"There are more than {MAX_KINDS} kinds of devices by their site and by what the waves are balanced "
                "by. Name something coarser in stratify or as the site's attribute.",
                "strata_too_many",
            )
    return found


def _arrange(found: _Found, order: Order, waves: Sequence[Wave], seed: int, events_through: int) -> Chosen:
    """Put the candidates in order and cut them into waves."""
    counted = Tally(found.alike)
    names = [name_of(kind, order.stratify) for _, _, _, _, *kind in found.kinds]
    strata, stratum_of = strata_of(names, [counted[index] for index in range(len(names))])
    ordered = _ordered(found, stratum_of, seed)
    groups = sum(isinstance(wave, Group) for wave in waves)
    own = [ordered.pop(group, array("q")) for group in range(groups)]
    pool = ordered.pop(_NO_GROUP, array("q"))
    cut = sizes(waves, len(pool), list(map(len, own)))
    chosen, sized, of_group, of_pool = array("q"), [], iter(own), iter(pool)
    for wave, size in zip(waves, cut, strict=True):
        chosen.extend(next(of_group) if isinstance(wave, Group) else islice(of_pool, size))
        if size:
            sized.append(ChosenWave(wave.label, size))
    for index in of_pool:
        found.left_out.setdefault("no_wave", Left()).add(found.numbers[index])
    return Chosen(
        waves=sized or [ChosenWave(waves[-1].label, 0)],
        strata=strata,
        kinds=[
            Alike(stratum + 1, site, hardware, bool(absent))
            for stratum, (_, absent, site, hardware, *_) in zip(stratum_of, found.kinds, strict=True)
        ],
        numbers=array("q", map(found.numbers.__getitem__, chosen)),
        alike=array("l", map(found.alike.__getitem__, chosen)),
        left_out=found.left_out,
        events_through=events_through,
    )


def _ordered(found: _Found, stratum_of: Sequence[int], seed: int) -> "dict[int, array[int]]":
    """Indices of the candidates of each group in their order: those that were heard lately before the others."""
    parts: dict[tuple[int, int], dict[int, list[int]]] = {}
    own: list[list[int]] = []
    for stratum, (group, absent, *_) in zip(stratum_of, found.kinds, strict=True):
        own.append(parts.setdefault((group, absent), {}).setdefault(stratum, []))
    for index, (number, alike) in enumerate(zip(found.numbers, found.alike, strict=True)):
        own[alike].append(place(number, seed) << _INDEX_BITS | index)
    ordered: dict[int, array[int]] = {}
    for (group, _), strata in sorted(parts.items()):
        in_order = [array("q", (packed & _INDEX_MASK for packed in sorted(part))) for _, part in sorted(strata.items())]
        ordered.setdefault(group, array("q")).extend(interleave(in_order))
    return ordered

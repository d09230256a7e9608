"""Say which release devices should run: the desired state, counted by `desired_version`, one open action at a time.

Whom an order means is looked up first, without the writer's turn, and is a list of numbers. They are then assigned in
transactions of at most `CHUNK` devices, each by a fixed number of statements whose rows never leave the database; in
between, others have their turn. An order for more devices than that, which breaks off half-way, leaves whole chunks
assigned and the others as they were; the same order again goes on, because who has the release already is left alone.
"""

from array import array
from collections import Counter as Tally
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from msgspec import Struct, field
from sqlalchemy import and_, case, delete, exists, func, insert, literal, not_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.release import ReleaseManifest
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.deadlines import deadline
from sdx_hub.persistence.number_lists import among, found_in
from sdx_hub.persistence.tables.assignments import Assignment
from sdx_hub.persistence.tables.devices import Device, DeviceTag
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import DevicePin
from sdx_hub.persistence.types import UtcDateTime
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.desired_state import mark, open_actions
from sdx_hub.services.devices.device_rows import find_device
from sdx_hub.services.devices.fleet_state import FleetState
from sdx_hub.services.devices.selecting import Condition, select_devices
from sdx_hub.services.devices.suiting import fits, holds
from sdx_hub.services.outcomes.superseding import superseded
from sdx_hub.services.release_lookup import published_release

MAX_DEVICES_PER_REQUEST: Final = 10_000
CHUNK: Final = 10_000
"""Devices in one transaction: about a second of the writer's turn."""
SAMPLE: Final = 100
"""Devices of each outcome that are named where the order did not name them."""
_DEADLINE_S: Final = 30.0
"""For finding whom an order means: longer than a preview may take, because nobody gives it twice."""
_NAMES: Final = 500
_ROWS: Final = 10_000
_ASSIGNED: Final = "assigned"
_UNCHANGED: Final = "unchanged"
_DETAILS: Final = {
    "device_pending": "Accept it first: sdx device accept.",
    "device_revoked": "It was revoked.",
    "device_pinned": "It is pinned to what it runs. Take the pin away first: sdx device unpin.",
}


class Refused(Struct, frozen=True):
    """A device that does not get the release, and why."""

    device: str
    code: str
    detail: str


class Counts(Struct):
    """How many devices an order reached.

    Attributes:
        refused: By code.
    """

    assigned: int = 0
    unchanged: int = 0
    refused: dict[str, int] = field(default_factory=dict)


class Assigned(Struct):
    """What an assignment did, by device id; of an order by tag or query the first ones of each kind.

    Attributes:
        counts: All of them.
    """

    assigned: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


class _Order(Struct, frozen=True):
    """What to do in each chunk.

    Attributes:
        why: For the audit log: the tag or the query.
        named: How many devices of each kind the answer names.
    """

    principal: Principal
    release: str
    why: dict[str, str]
    named: int


class AssigningService:
    def __init__(self, database: Database, clock: Clock, fleet: FleetState) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet

    async def assign(
        self,
        principal: Principal,
        release_id: str,
        devices: list[str] | None = None,
        tag: str | None = None,
        query: str | None = None,
    ) -> Assigned:
        """Make `release_id` the desired release of its product on these devices.

        A device that has it already is left alone, unless its last action did not succeed: then it is tried again.

        Args:
            principal: Who asks.
            release_id: `PRODUCT@VERSION`, published.
            devices: Ids or serials.
            tag: Instead: every device with this tag, except revoked ones.
            query: Instead: every device that matches, except revoked ones.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such release.
            ConflictError: It is not published (code `release_not_published`).
            BadInput: Not exactly one of devices, tag and query is given (code `devices_or_tag`), or the query is none.
            Unavailable: The query took too long (code `query_timeout`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        if sum(each is not None for each in (devices, tag, query)) != 1:
            raise BadInput("Name either devices, a tag or a query.", "devices_or_tag")
        if devices is not None and len(devices) > MAX_DEVICES_PER_REQUEST:
            raise BadInput(f"At most {MAX_DEVICES_PER_REQUEST} devices in one request; or use a tag or a query.")
        done = Assigned()
        async with self._database.reading() as session:
            await published_release(session, release_id)
            if devices is not None:
                numbers = await self._named(session, devices, done)
            else:
                numbers = await self._selected(session, tag, query)
        why = {"tag": tag} if tag is not None else {"query": query} if query is not None else {}
        order = _Order(principal, release_id, why, MAX_DEVICES_PER_REQUEST if devices is not None else SAMPLE)
        for start in range(0, len(numbers), CHUNK):
            await self._assign(order, numbers[start : start + CHUNK], done)
        return done

    async def unassign(self, uow: UnitOfWork, release_id: str, actor: str) -> None:
        """Take a yanked release away from every device, inside the transaction of the yank.

        One transaction for all of them: nobody may see a yanked release that is still somebody's.
        """
        holders = select(col(Assignment.device_id)).where(col(Assignment.release_id) == release_id)
        if await uow.session.scalar(holders.limit(1)) is None:
            return
        session, now = uow.session, self._clock.now()
        seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
        others = exists().where(col(Assignment.device_id) == col(Device.id), col(Assignment.release_id) != release_id)
        count = await mark(session, seq, col(Device.id).in_(holders), has_assignment=others)
        await session.execute(
            delete(Assignment)
            .where(col(Assignment.release_id) == release_id)
            .execution_options(synchronize_session=False)
        )
        await superseded(session, seq, now, "release_yanked")
        await open_actions(session, seq, now, ended="cancelled", code="release_yanked", why=f"{release_id} yanked")
        await uow.audit(actor, "release.unassign", release_id, devices=count)
        uow.after_commit(self._fleet.catch_up)

    async def _named(self, session: AsyncSession, names: Sequence[str], done: Assigned) -> "array[int]":
        """Numbers of devices by id or serial, in the order of the names; unknown ones are refused."""
        numbers: dict[int, None] = {}
        for start in range(0, len(names), _NAMES):
            part = names[start : start + _NAMES]
            # Almost all names are ids: one query for many.
            ids = select(col(Device.id), col(Device.number)).where(col(Device.id).in_(part))
            by_id = dict((await session.execute(ids)).all())
            for name in part:
                try:
                    number = by_id.get(name) or (await find_device(session, name)).number
                except NotFound as error:
                    done.refused.append(Refused(name, error.code, str(error)))
                else:
                    numbers[number] = None
        done.counts.refused = dict(Tally(refused.code for refused in done.refused))
        return array("q", numbers)

    async def _selected(self, session: AsyncSession, tag: str | None, query: str | None) -> "array[int]":
        """Numbers of devices by tag or query: eight bytes for each."""
        async with deadline(session, _DEADLINE_S):
            if query is not None:
                condition = (await select_devices(session, query, self._clock.now())).condition
            else:
                tagged = select(col(DeviceTag.device_id)).where(col(DeviceTag.tag) == tag)
                condition = col(Device.id).in_(tagged)
            found = select(col(Device.number)).where(condition, col(Device.state) != "revoked")
            rows = await session.stream_scalars(found.order_by(col(Device.number)).execution_options(yield_per=_ROWS))
            numbers = array("q")
            async for part in rows.partitions():
                numbers.extend(part)
        return numbers

    async def _assign(self, order: _Order, numbers: "array[int]", done: Assigned) -> None:
        """One transaction."""
        async with self._database.unit_of_work() as uow:
            session, now = uow.session, self._clock.now()
            release, manifest = await published_release(session, order.release)
            chosen, outcome = among(session, col(Device.number), numbers), _outcome(release, manifest)
            await _note_others(session, chosen, outcome, manifest, order=order, done=done)
            seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
            assigned = await mark(session, seq, and_(chosen, outcome == _ASSIGNED), has_assignment=true())
            if not assigned:
                return
            await _replace_assignments(session, seq, release, now)
            await superseded(session, seq, now)
            await open_actions(session, seq, now, ended="superseded", code="", why=f"{release.id} assigned")
            first = select(col(Device.id)).where(col(Device.change_seq) == seq).order_by(col(Device.number))
            ids = list(await session.scalars(first.limit(order.named)))
            await uow.audit(
                order.principal.name, "release.assign", release.id, **order.why, devices=ids[:SAMPLE], count=assigned
            )
            uow.after_commit(self._fleet.catch_up)
            await uow.commit()
        done.counts.assigned += assigned
        done.assigned += ids[: order.named - len(done.assigned)]


def _outcome(release: Release, manifest: ReleaseManifest) -> Any:
    """What becomes of a device: `assigned`, `unchanged`, or the code of a refusal.

    One expression, and no conditions that an index could answer: the database is to begin with the chosen devices.
    """
    return case(
        (col(Device.state) != "accepted", literal("device_") + col(Device.state)),
        (not_(fits(manifest)), "wrong_hardware"),
        (holds(release), _UNCHANGED),
        (exists().where(col(DevicePin.number) == col(Device.number)), "device_pinned"),
        else_=_ASSIGNED,
    )


async def _replace_assignments(session: AsyncSession, seq: int, release: Release, now: datetime) -> None:
    marked = col(Device.change_seq) == seq
    of_product = col(Assignment.product) == release.product
    holders = found_in(session, col(Assignment.device_id), select(col(Device.id)).where(marked))
    await session.execute(delete(Assignment).where(of_product, holders).execution_options(synchronize_session=False))
    row = {
        "device_id": col(Device.id),
        "product": literal(release.product),
        "release_id": literal(release.id),
        "assigned_at": literal(now, UtcDateTime),
    }
    await session.execute(insert(Assignment).from_select(list(row), select(*row.values()).where(marked)))


async def _note_others(
    session: AsyncSession, chosen: Condition, outcome: Any, manifest: ReleaseManifest, *, order: _Order, done: Assigned
) -> None:
    """Count those that will not get the release, and name the first ones."""
    counted = await session.execute(select(outcome, func.count()).where(chosen).group_by(outcome))
    counts: dict[str, int] = dict(counted.all())
    counts.pop(_ASSIGNED, None)
    unchanged = counts.pop(_UNCHANGED, 0)
    done.counts.unchanged += unchanged
    done.counts.refused = dict(Tally(done.counts.refused) + Tally(counts))
    named = select(col(Device.id), col(Device.hardware), outcome).where(chosen).order_by(col(Device.number))
    if unchanged and (room := order.named - len(done.unchanged)) > 0:
        rows = await session.execute(named.where(outcome == _UNCHANGED).limit(room))
        done.unchanged += [identity for identity, _, _ in rows]
    if counts and (room := order.named - len(done.refused)) > 0:
        rows = await session.execute(named.where(outcome.not_in((_ASSIGNED, _UNCHANGED))).limit(room))
        for identity, hardware, code in rows:
            fits = f"{order.release} is for {', '.join(manifest.hardware)}; this device is {hardware}."
            done.refused.append(Refused(identity, code, _DETAILS.get(code, fits)))

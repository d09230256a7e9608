"""A rollout whose members are in the states that a test wants, with the rows that bring them there."""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select, true, update
from sqlmodel import col

from firmware_schemas.release import Component, ReleaseManifest, encode_manifest
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import (
    Rollout,
    RolloutDevice,
    RolloutOutcome,
    RolloutStratum,
    RolloutTally,
    RolloutWave,
)
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, UnitOfWork
from sdx_hub.services.devices.assigning import AssigningService
from sdx_hub.services.devices.desired_state import mark, open_actions
from sdx_hub.services.devices.fleet_state import FleetState, PollSettings
from sdx_hub.services.outcomes import log
from tests.unit.sdx_hub.services.conftest import OPERATOR, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft, add_release
from tests.unit.sdx_hub.services.devices.test_fleet_state import add

SILENT_AFTER_S = 3_600
RESULTS = {"committed": "success", "failed": "failed", "rolled_back": "rolled_back", "refused": "refused"}
"""How the action of a member ended."""


class Rollouts:
    """Fleet and rollouts of one test. Names of devices are their serials."""

    def __init__(self, database: Database, clock: MovableClock) -> None:
        self.database = database
        self.clock = clock
        self.fleet = FleetState(database, clock, PollSettings())
        self.assigning = AssigningService(database, clock, self.fleet)
        self.numbers: dict[str, int] = {}
        self.ids: dict[str, str] = {}

    async def release(self, name: str, *, back_to: int | None = None, state: str = "published") -> str:
        product, _, version = name.partition("@")
        counter = int(version.replace(".", ""))
        parts = (Component("server", "file", "ab" * 32, 1),)
        raw = encode_manifest(ReleaseManifest(product, version, counter, parts, ("any",), revert_counter=back_to))
        return await add_release(self.database, product, version, raw, state, back_to)

    async def device(self, serial: str, assigned: str | None = None, state: str = "accepted") -> None:
        """A device that runs what is assigned to it."""
        craft = Craft(serial)
        self.numbers[serial] = await add(self.database, craft, state)
        self.ids[serial] = craft.id
        if assigned is not None:
            await self.assigning.assign(OPERATOR, assigned, [serial])
            await self.end_action(serial, "success")

    async def rollout(self, number: int, release: str, state: str = "running", **fields: Any) -> int:
        """A rollout with one open wave and one stratum."""
        order = fields.pop("order", None) or Order(release=release, silent_after_s=SILENT_AFTER_S)
        base: dict[str, Any] = {
            "number": number,
            "release_id": release,
            "product": release.partition("@")[0],
            "state": state,
            "spec": msgspec.json.encode(order).decode(),
            "seed": 1,
            "priority": order.priority,
            "wave": 1,
            "created_by": OPERATOR.name,
            "created_at": self.clock.now(),
        }
        async with self.database.unit_of_work() as uow:
            uow.session.add(Rollout(**{**base, **fields}))
            await uow.session.flush()
            uow.session.add(RolloutWave(rollout=number, wave=1, label="100%", size=0, opened_at=self.clock.now()))
            uow.session.add(RolloutStratum(rollout=number, stratum=1, name="rpi4"))
            await uow.commit()
        return number

    async def member(self, rollout: int, serial: str, state: str = "queued", code: str = "") -> None:
        """A member; in any other state than `queued` it was offered the release, and its action ended accordingly."""
        async with self.database.unit_of_work() as uow:
            position = self.numbers[serial]
            uow.session.add(
                RolloutDevice(rollout=rollout, number=position, wave=1, position=position, stratum=1, state="queued")
            )
            wave = col(RolloutWave.rollout) == rollout
            await uow.session.execute(update(RolloutWave).where(wave).values(size=col(RolloutWave.size) + 1))
            tally = await uow.session.get(RolloutTally, (rollout, 1, 1, "queued"))
            if tally is None:
                tally = RolloutTally(rollout=rollout, wave=1, stratum=1, state="queued", devices=0)
                uow.session.add(tally)
            tally.devices += 1
            await uow.commit()
        if state in {"queued", "pinned", "skipped"}:
            if state != "queued":
                await self.become(rollout, serial, state, code)
            return
        await self.offer(rollout, serial)
        if state != "offered":
            await self.become(rollout, serial, state, code)
        if state in RESULTS:
            await self.end_action(serial, RESULTS[state])

    async def offer(self, rollout: int, serial: str) -> None:
        async with self.database.unit_of_work() as uow:
            session, now = uow.session, self.clock.now()
            row = await session.get_one(Rollout, rollout)
            device = await session.get_one(Device, self.ids[serial])
            member = await session.get_one(RolloutDevice, (rollout, device.number))
            before = await session.get(Assignment, (device.id, row.product))
            if member.attempt == 0:
                member.previous = before.release_id if before else None
            member.attempt += 1
            member.offered = row.release_id
            member.check_at_s = int(now.timestamp()) + SILENT_AFTER_S
            await session.flush()
            await _assign(uow, device, row.product, row.release_id, now)
            version = device.desired_version + 1
            of_member = col(RolloutDevice.rollout) == rollout, col(RolloutDevice.number) == device.number
            await log.move(session, select(*log.entry(now, "offered", version=version)).where(*of_member))
            await uow.commit()

    async def become(self, rollout: int, serial: str, state: str, code: str = "") -> None:
        """An outcome, as the device's report or the engine would bring it."""
        async with self.database.unit_of_work() as uow:
            of_member = col(RolloutDevice.rollout) == rollout, col(RolloutDevice.number) == self.numbers[serial]
            source = select(*log.entry(self.clock.now(), state, code)).where(*of_member)
            await log.move(uow.session, source)
            await uow.commit()

    async def end_action(self, serial: str, state: str) -> None:
        """The action that is open on a device ends."""
        async with self.database.unit_of_work() as uow:
            is_open = col(Action.device_id) == self.ids[serial], col(Action.state) == "open"
            await uow.session.execute(update(Action).where(*is_open).values(state=state))
            await uow.commit()

    async def yank(self, release: str) -> None:
        async with self.database.unit_of_work() as uow:
            row = await uow.session.get_one(Release, release)
            row.state = "yanked"
            await uow.session.flush()
            await self.assigning.unassign(uow, release, "anna")
            await uow.commit()

    async def revoke(self, serial: str) -> None:
        async with self.database.unit_of_work() as uow:
            device = await uow.session.get_one(Device, self.ids[serial])
            device.state = "revoked"
            await uow.commit()

    async def set_state(self, rollout: int, state: str) -> None:
        async with self.database.unit_of_work() as uow:
            row = await uow.session.get_one(Rollout, rollout)
            row.state = state
            await uow.commit()

    async def assigned(self, serial: str) -> dict[str, str]:
        """Product to release id."""
        rows = await self._rows(
            select(col(Assignment.product), col(Assignment.release_id)).where(
                col(Assignment.device_id) == self.ids[serial]
            )
        )
        return dict(rows)

    async def action(self, serial: str) -> tuple[int, str]:
        """The device's desired version, and the state of its action; empty where there is none."""
        rows = await self._rows(
            select(col(Device.desired_version), col(Action.state))
            .outerjoin(
                Action,
                (col(Action.device_id) == col(Device.id))
                & (col(Action.desired_version) == col(Device.desired_version)),
            )
            .where(col(Device.id) == self.ids[serial])
        )
        return rows[0][0], rows[0][1] or ""

    async def members(self, rollout: int) -> dict[str, tuple[str, str]]:
        """Serial to state and code."""
        rows = await self._rows(
            select(col(Device.serial), col(RolloutDevice.state), col(RolloutDevice.code))
            .join(RolloutDevice, col(RolloutDevice.number) == col(Device.number))
            .where(col(RolloutDevice.rollout) == rollout)
        )
        return {serial: (state, code) for serial, state, code in rows}

    async def row(self, rollout: int, serial: str) -> RolloutDevice:
        async with self.database.reading() as session:
            return await session.get_one(RolloutDevice, (rollout, self.numbers[serial]))

    async def rollout_row(self, rollout: int) -> Rollout:
        async with self.database.reading() as session:
            return await session.get_one(Rollout, rollout)

    async def outcomes(self, rollout: int, serial: str) -> list[tuple[str, str]]:
        """State before and after, of each outcome of a member."""
        return await self._rows(
            select(col(RolloutOutcome.was), col(RolloutOutcome.state))
            .where(col(RolloutOutcome.rollout) == rollout, col(RolloutOutcome.number) == self.numbers[serial])
            .order_by(col(RolloutOutcome.id))
        )

    async def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        async with self.database.reading() as session:
            return [tuple(row) for row in await session.execute(query)]


async def _assign(uow: UnitOfWork, device: Device, product: str, release: str, now: datetime) -> None:
    session = uow.session
    await session.merge(Assignment(device_id=device.id, product=product, release_id=release, assigned_at=now))
    await session.flush()
    seq = await uow.next_number(DEVICE_CHANGE_COUNTER)
    await mark(session, seq, col(Device.id) == device.id, has_assignment=true())
    await open_actions(session, seq, now, ended="superseded", code="", why="offered")

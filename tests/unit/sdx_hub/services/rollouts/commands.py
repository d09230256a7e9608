"""A hub that people command."""

import json
from typing import Any

from sqlalchemy import select, update
from sqlmodel import col

from sdx_hub.domain.access import Principal
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.devices import InstalledComponent
from sdx_hub.persistence.tables.events import HubEvent
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout, RolloutDecision
from sdx_hub.services.rollouts.commands.commanding import Commanded
from sdx_hub.services.rollouts.commands.pins import PinService
from sdx_hub.services.rollouts.commands.rollouts import RolloutService
from sdx_hub.services.rollouts.planning.planning import PlanningService
from tests.unit.sdx_hub.services.conftest import ADMIN, OPERATOR, MovableClock
from tests.unit.sdx_hub.services.rollouts.planned import DEFAULTS
from tests.unit.sdx_hub.services.rollouts.rolling import Rolling
from tests.unit.sdx_hub.services.rollouts.test_planning import Sizes

TWO = ("anna", "paul")


class Commands(Rolling):
    def __init__(self, database: Database, clock: MovableClock) -> None:
        super().__init__(database, clock)
        self.service = RolloutService(database, clock, self.fleet, PlanningService(database, clock, Sizes(), DEFAULTS))
        self.pins = PinService(database, clock)

    async def signed(self, name: str, *owners: str, **more: Any) -> str:
        """A release that these people signed."""
        release = await self.release(name, **more)
        await self.change_release(release, signed_by=json.dumps(owners))
        return release

    async def change_release(self, release: str, **values: Any) -> None:
        async with self.database.unit_of_work() as uow:
            await uow.session.execute(update(Release).where(col(Release.id) == release).values(**values))
            await uow.commit()

    async def manifest(self, release: str) -> bytes:
        async with self.database.reading() as session:
            return bytes((await session.get_one(Release, release)).manifest)

    async def runs(self, serial: str, release: str) -> None:
        """Its inventory says so."""
        product, _, version = release.partition("@")
        counter = int(version.replace(".", ""))
        part = InstalledComponent(
            device_id=self.ids[serial],
            name="server",
            type="file",
            product=product,
            version=version,
            release_counter=counter,
            sha256="ab" * 32,
        )
        async with self.database.unit_of_work() as uow:
            await uow.session.merge(part)
            await uow.commit()

    async def start(self, release: str, principal: Principal = OPERATOR, **order: Any) -> Commanded:
        return await self.service.start(principal, Order(release=release, **order))

    async def give(self, command: str, rollout: int, principal: Principal = ADMIN, **more: Any) -> Commanded:
        """A command, with what it needs at the least."""
        needs: dict[str, Any] = {"retry": {}, "skip": {"devices": [], "reason": "x"}}.get(command, {"reason": "x"})
        done: Commanded = await getattr(self.service, command)(principal, f"ro-{rollout}", **(needs | more))
        return done

    async def state(self, rollout: int) -> str:
        return (await self.rollout_row(rollout)).state

    async def kept(self, rollout: int) -> tuple[Any, ...]:
        """Everything that a refusal leaves as it was."""
        async with self.database.reading() as session:
            row = await session.get_one(Rollout, rollout)
            counts = [len((await session.scalars(select(table))).all()) for table in (RolloutDecision, HubEvent)]
            audit = await session.scalars(select(col(AuditEntry.hash)))
            return row.model_dump(), *counts, audit.all(), await self.members(rollout)

    async def decisions(self, rollout: int) -> list[RolloutDecision]:
        async with self.database.reading() as session:
            of_rollout = col(RolloutDecision.rollout) == rollout
            rows = await session.scalars(select(RolloutDecision).where(of_rollout).order_by(col(RolloutDecision.id)))
            return list(rows)

    async def events(self, rollout: int) -> list[str]:
        rows = await self._rows(
            select(col(HubEvent.type)).where(col(HubEvent.subject) == f"ro-{rollout}").order_by(col(HubEvent.id))
        )
        return [kind for (kind,) in rows]

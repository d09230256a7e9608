"""A fleet to plan rollouts for: rows as enrolment, people and reports leave them."""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
from sqlalchemy import select, update
from sqlmodel import SQLModel, col

from firmware_schemas.release import Component, Constraint, ReleaseManifest, encode_manifest
from sdx_hub.domain.rollout.completing import Defaults, complete
from sdx_hub.domain.rollout.ordering import seed_of
from sdx_hub.domain.rollout.policy import Order
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device, DeviceAttribute, DeviceSeen, DeviceTag, InstalledComponent
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import DevicePin, Rollout
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER, DEVICE_NUMBER_COUNTER
from tests.unit.sdx_hub.services.conftest import START, MovableClock
from tests.unit.sdx_hub.services.crafts import Craft, add_release

DEFAULTS = Defaults(soak_s=600, silent_after_s=3_600, poll_s=75)


class PlannedFleet:
    """Devices have the serials that the test gives them; `numbers` says which number each got."""

    def __init__(self, database: Database, clock: MovableClock) -> None:
        self.database = database
        self.clock = clock
        self.numbers: dict[str, int] = {}
        self.ids: dict[str, str] = {}

    async def release(
        self,
        name: str,
        hardware: tuple[str, ...] = ("any",),
        components: Sequence[Component] = (),
        requires: tuple[Constraint, ...] = (),
        conflicts: tuple[Constraint, ...] = (),
        revert_counter: int | None = None,
        signed_by: str = '["anna", "paul"]',
        trial_s: int = 0,
        **row: Any,
    ) -> str:
        product, _, version = name.partition("@")
        parts = tuple(components) or (Component("server", "file", hashlib.sha256(b"x").hexdigest(), 1),)
        manifest = ReleaseManifest(
            product,
            version,
            int(version.replace(".", "")),
            parts,
            hardware,
            requires,
            conflicts,
            trial_s=trial_s,
            revert_counter=revert_counter,
            must_pass=row.get("must_pass", False),
        )
        identity = await add_release(
            self.database, product, version, encode_manifest(manifest), revert_counter=revert_counter, **row
        )
        await self.change(identity, signed_by=signed_by)
        return identity

    async def change(self, release: str, **values: Any) -> None:
        async with self.database.unit_of_work() as uow:
            await uow.session.execute(update(Release).where(col(Release.id) == release).values(**values))
            await uow.commit()

    async def device(
        self,
        serial: str,
        *,
        hardware: str = "rpi4",
        state: str = "accepted",
        seen_ago_s: int | None = 60,
        tags: Sequence[str] = (),
        runs: dict[str, str] | None = None,
        **attributes: str,
    ) -> int:
        """Add one.

        Args:
            serial: Unique.
            hardware: Its hardware.
            state: Its state.
            seen_ago_s: When it polled last; None for never.
            tags: Its tags.
            runs: Product to version.
            attributes: Its attributes.
        """
        craft = Craft(serial, hardware)
        async with self.database.unit_of_work() as uow:
            number = await uow.next_number(DEVICE_NUMBER_COUNTER)
            uow.session.add(
                Device(
                    id=craft.id,
                    number=number,
                    serial=serial,
                    device_key=craft.device_key,
                    hardware=hardware,
                    state=state,
                    token_sha256=craft.token_sha256,
                    change_seq=await uow.next_number(DEVICE_CHANGE_COUNTER),
                    created_at=START,
                )
            )
            await uow.session.flush()
            uow.session.add_all(DeviceTag(device_id=craft.id, tag=tag) for tag in tags)
            uow.session.add_all(
                DeviceAttribute(device_id=craft.id, name=name, value=value) for name, value in attributes.items()
            )
            for product, version in (runs or {}).items():
                uow.session.add(
                    InstalledComponent(
                        device_id=craft.id,
                        name=product,
                        type="file",
                        product=product,
                        version=version,
                        release_counter=int(version.replace(".", "")),
                        sha256="ab" * 32,
                    )
                )
            if seen_ago_s is not None:
                seen_s = int((self.clock.now() - timedelta(seconds=seen_ago_s)).timestamp())
                uow.session.add(DeviceSeen(number=number, last_seen_s=seen_s))
            await uow.commit()
        self.numbers[serial], self.ids[serial] = number, craft.id
        return number

    async def assigned(self, serial: str, release: str, action: str = "open") -> None:
        """Assign a release, with an action in that state."""
        device = self.ids[serial]
        async with self.database.unit_of_work() as uow:
            product = release.partition("@")[0]
            uow.session.add(Assignment(device_id=device, product=product, release_id=release, assigned_at=START))
            version = await uow.session.scalar(
                update(Device)
                .where(col(Device.id) == device)
                .values(desired_version=col(Device.desired_version) + 1, has_assignment=True)
                .returning(col(Device.desired_version))
            )
            uow.session.add(
                Action(
                    id=f"{device}.{version}",
                    device_id=device,
                    desired_version=version or 0,
                    releases="{}",
                    state=action,
                    created_at=START,
                )
            )
            await uow.commit()

    async def pinned(self, serial: str) -> None:
        async with self.database.unit_of_work() as uow:
            uow.session.add(DevicePin(number=self.numbers[serial], reason="x", pinned_by="olga", pinned_at=START))
            await uow.commit()

    def order(self, release: str, **fields: Any) -> Order:
        return complete(Order(release=release, **fields), DEFAULTS)

    async def rollout(self, order: Order, number: int = 1, **fields: Any) -> int:
        """A rollout's row as ordering leaves it."""
        values = {
            "number": number,
            "release_id": order.release,
            "product": order.release.partition("@")[0],
            "state": "preparing",
            "spec": msgspec.json.encode(order).decode(),
            "seed": seed_of(order),
            "priority": order.priority,
            "created_by": "olga",
            "created_at": START,
        }
        async with self.database.unit_of_work() as uow:
            uow.session.add(Rollout(**(values | fields)))
            await uow.commit()
        return number

    async def row(self, number: int = 1) -> Rollout:
        async with self.database.reading() as session:
            row = await session.get(Rollout, number)
            assert row is not None
            return row

    async def rows(self, table: type[SQLModel], *columns: Any) -> list[tuple[Any, ...]]:
        async with self.database.reading() as session:
            return [tuple(row) for row in await session.execute(select(*columns).select_from(table).order_by(*columns))]

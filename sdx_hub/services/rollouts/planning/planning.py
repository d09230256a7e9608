"""Who would get a release when, before anything is changed."""

import asyncio
from collections import Counter as Tally
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.release import ReleaseManifest
from sdx_hub.adapters.blobs import BlobReader
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.query import parse
from sdx_hub.domain.rollout import windows
from sdx_hub.domain.rollout.arranging import SAMPLE, Chosen
from sdx_hub.domain.rollout.completing import Defaults, complete
from sdx_hub.domain.rollout.estimating import ASSUMED_INSTALL_S, Load, Pace, Span, expected
from sdx_hub.domain.rollout.ordering import seed_of
from sdx_hub.domain.rollout.policy import Order, Soak
from sdx_hub.domain.rollout.states import ACTIVE
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.deadlines import deadline
from sdx_hub.persistence.number_lists import among
from sdx_hub.persistence.tables.devices import Device
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout
from sdx_hub.services.release_lookup import published_release
from sdx_hub.services.rollouts.planning.approving import approval_of, signed_by_two
from sdx_hub.services.rollouts.planning.choosing import choose, matching
from sdx_hub.services.rollouts.planning.eligibility import SENTENCES, stranded_devices
from sdx_hub.services.rollouts.planning.history import median_update_s
from sdx_hub.services.rollouts.planning.link_loads import WaveLoad, bytes_by_hardware, loads
from sdx_hub.services.rollouts.planning.plan_warnings import Neighbours, warnings
from sdx_hub.services.rollouts.planning.plans import LeftOut, Plan, PlannedApproval, PlannedDevice, PlannedWave
from sdx_hub.services.rollouts.records.rollout_rows import rollout_id

__all__ = ["Plan", "PlanningService"]

DEADLINE_S: Final = 30.0
"""For each statement: a million devices are within it."""


class _Known(Struct, frozen=True):
    """What a plan is made of."""

    release: Release
    manifest: ReleaseManifest
    chosen: Chosen
    named: dict[int, PlannedDevice]
    neighbours: Neighbours
    median_s: float | None


class PlanningService:
    def __init__(self, database: Database, clock: Clock, blobs: BlobReader, defaults: Defaults) -> None:
        self._database = database
        self._clock = clock
        self._blobs = blobs
        self._defaults = defaults

    def complete(self, order: Order) -> Order:
        """Fill in what the order leaves to the hub.

        Raises:
            BadInput: It makes no sense (see `domain.rollout.completing.complete`).
        """
        return complete(order, self._defaults)

    async def plan(self, principal: Principal, order: Order) -> Plan:
        """Say who would get the release when, what it costs, and what to think about. Nothing is changed.

        Raises:
            NotAllowed: The role may not read.
            BadInput: The order makes no sense (see `complete`), or its query is none (see `select_devices`).
            NotFound: There is no such release (code `release_not_found`).
            ConflictError: It is not published (code `release_not_published`).
            Unavailable: The query took too long, or the payloads' store does not answer (codes `query_timeout`,
                `blob_store_unavailable`).
        """
        principal.require(Permission.READ)
        order, now = self.complete(order), self._clock.now()
        known = await self._know(order, now)
        bytes_of = await bytes_by_hardware(self._blobs, known.manifest, {kind.hardware for kind in known.chosen.kinds})
        sent = await asyncio.to_thread(loads, known.chosen, bytes_of)
        pace, assumptions = self._pace(order, known)
        spans = expected(
            [Load(wave.size, load.largest_site) for wave, load in zip(known.chosen.waves, sent, strict=True)], pace, now
        )
        left_out = _left_out(known)
        members = len(known.chosen.numbers)
        return Plan(
            order=order,
            query=str(parse(order.query)) if order.query else "",
            members=members,
            matching=members + sum(each.devices for each in left_out),
            waves=_waves(known, sent, spans),
            left_out=left_out,
            transported_bytes=sum(load.transported_bytes for load in sent),
            starts_at=spans[0].starts_at,
            ends_at=spans[-1].ends_at,
            assumptions=assumptions,
            approval=_approval(order, known.release),
            warnings=warnings(order, known.manifest, known.chosen, known.neighbours, self._defaults),
        )

    async def _know(self, order: Order, now: datetime) -> _Known:
        async with self._database.reading() as session, deadline(session, DEADLINE_S):
            release, manifest = await published_release(session, order.release)
            chosen = await choose(session, order, release, seed=seed_of(order), now=now)
            return _Known(
                release=release,
                manifest=manifest,
                chosen=chosen,
                named=await _named(session, _to_name(chosen)),
                neighbours=await self._neighbours(session, order, release, manifest),
                median_s=await median_update_s(session),
            )

    def _pace(self, order: Order, known: _Known) -> tuple[Pace, list[str]]:
        soak, limits = order.soak or Soak(), order.limits
        if known.median_s is not None:
            device_s = known.median_s
            said = [f"A device takes {device_s:.0f} s from the offer to the commit, as half of the last ones did."]
        else:
            device_s = self._defaults.poll_s + ASSUMED_INSTALL_S + known.manifest.trial_s
            said = [
                f"A device takes {device_s:.0f} s: {self._defaults.poll_s} s until it polls, {ASSUMED_INSTALL_S} s to "
                f"download and install (assumed: no earlier rollout has shown it), {known.manifest.trial_s} s of trial."
            ]
        said.append("Every device is switched on and takes the release at once, and nothing stops the rollout.")
        if soak.flights or soak.hours:
            said.append("The use that the soak waits for comes in time: how much devices fly is not known.")
        opened = () if order.urgent else tuple(windows.parse(text) for text in order.windows)
        return Pace(device_s, soak.seconds, limits.in_flight, limits.site_in_flight, opened), said

    async def _neighbours(
        self, session: AsyncSession, order: Order, release: Release, manifest: ReleaseManifest
    ) -> Neighbours:
        of_product = col(Release.product) == release.product
        steps = select(col(Release.id)).where(
            of_product,
            col(Release.state) == "published",
            col(Release.must_pass),
            col(Release.release_counter) < release.release_counter,
        )
        others = select(col(Rollout.number)).where(
            col(Rollout.product) == release.product, col(Rollout.state).in_(ACTIVE)
        )
        stranded = 0
        if manifest.floor < manifest.release_counter:  # Else there is no way back for anybody.
            meant = await matching(session, order, release, self._clock.now())
            stranded = await stranded_devices(session, meant, release, manifest, downgrade=bool(order.downgrade))
        return Neighbours(
            must_pass=(await session.scalars(steps.order_by(col(Release.release_counter)))).all(),
            stranded=stranded,
            rollouts=[rollout_id(number) for number in await session.scalars(others.order_by(col(Rollout.number)))],
        )


def _approval(order: Order, release: Release) -> PlannedApproval:
    approval = approval_of(order, release)
    waits, signers = approval.kind == "second_person", list(approval.signed_by)
    if not waits:
        return PlannedApproval(signers, waits, f"{' and '.join(signers)} signed the release: it starts at once.")
    if signed_by_two(approval):
        why = "A second person was asked for"
    else:
        why = f"Only {signers[0]} signed the release" if signers else "Nobody is known to have signed the release"
    return PlannedApproval(signers, waits, f"{why}: somebody else has to approve the rollout (sdx rollout approve).")


def _to_name(chosen: Chosen) -> list[int]:
    firsts = [chosen.numbers[index] for _, span in chosen.spans() for index in span[:SAMPLE]]
    return firsts + [number for left in chosen.left_out.values() for number in left.first]


async def _named(session: AsyncSession, numbers: list[int]) -> dict[int, PlannedDevice]:
    columns = (col(Device.number), col(Device.id), col(Device.serial), col(Device.hardware))
    rows = await session.execute(select(*columns).where(among(session, col(Device.number), numbers)))
    return {number: PlannedDevice(*rest) for number, *rest in rows}


def _left_out(known: _Known) -> list[LeftOut]:
    left = known.chosen.left_out
    return [
        LeftOut(code, left[code].devices, SENTENCES[code], [known.named[number] for number in left[code].first])
        for code in sorted(left, key=lambda code: (-left[code].devices, code))
    ]


def _waves(known: _Known, sent: Iterable[WaveLoad], spans: Iterable[Span]) -> list[PlannedWave]:
    chosen, found = known.chosen, []
    for number, ((wave, members), load, span) in enumerate(zip(chosen.spans(), sent, spans, strict=True), 1):
        strata = Tally[str]()
        for alike, count in chosen.counted(members):
            strata[chosen.strata[alike.stratum - 1]] += count
        found.append(
            PlannedWave(
                wave=number,
                label=wave.label,
                devices=wave.size,
                total=members.stop,
                strata=dict(strata.most_common()),
                first=[known.named[chosen.numbers[index]] for index in members[:SAMPLE]],
                transported_bytes=load.transported_bytes,
                sites=load.sites,
                starts_at=span.starts_at,
                ends_at=span.ends_at,
            )
        )
    return found

"""What people command: rollouts are started, approved, paused, resumed, halted, reverted, cancelled, advanced.

A command changes the rollout's row, keeps what it was decided on, and tells of it, in one transaction; what follows for
devices is done by the engine, from the row, and so it goes on whatever happens to this process. Which command is
possible in which state is a table (`domain.rollout.commands`). A command that comes again is answered as done.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec
from msgspec import structs

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import ConflictError
from sdx_hub.domain.rollout.accepting import accept
from sdx_hub.domain.rollout.commands import Command, after
from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Facts
from sdx_hub.domain.rollout.policy import Approval, Order
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.devices.fleet_state import FleetState
from sdx_hub.services.rollouts.commands import member_commands
from sdx_hub.services.rollouts.commands.commanding import (
    BY_PERSON,
    Commanded,
    commanded,
    decided_by_person,
    facts_now,
    is_done,
    spoken,
)
from sdx_hub.services.rollouts.commands.starting import check_queries, create
from sdx_hub.services.rollouts.planning.approving import bound_approval, refuse_same_person, signed_by_two
from sdx_hub.services.rollouts.planning.planning import PlanningService
from sdx_hub.services.rollouts.records.applying import apply
from sdx_hub.services.rollouts.records.rollout_rows import find_rollout, log_decision

Check = Callable[[UnitOfWork, Rollout, Facts], Awaitable[None]]


class RolloutService:
    """Commands.

    Args:
        database: With the tables.
        clock: For times.
        fleet: Hears of devices whose desired state was changed.
        planning: Fills in what an order leaves to the hub.
    """

    def __init__(self, database: Database, clock: Clock, fleet: FleetState, planning: PlanningService) -> None:
        self._database = database
        self._clock = clock
        self._fleet = fleet
        self._planning = planning

    async def start(self, principal: Principal, order: Order) -> Commanded:
        """Start a rollout, or have it wait for a second person where nobody else stands behind it yet.

        Raises:
            NotAllowed: The role does not operate devices.
            BadInput: The order makes no sense (see `PlanningService.complete`), or a query is none
                (see `select_devices`).
            NotFound: There is no such release (code `release_not_found`).
            ConflictError: It is not published (`release_not_published`), or goes to the same devices already
                (`rollout_exists`, member `rollout`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        order = self._planning.complete(order)
        async with self._database.reading() as session:
            await check_queries(session, order, self._clock.now())
        async with self._database.unit_of_work() as uow:
            row = await create(uow, principal, order, self._clock.now())
            await uow.commit()
        return commanded(row)

    async def approve(self, principal: Principal, rollout: str, reason: str = "") -> Commanded:
        """Let a rollout begin that somebody else ordered.

        Raises:
            NotAllowed: The role does not approve, or the same person ordered it (code `same_person`).
            NotFound: There is no such rollout (code `rollout_unknown`).
            ConflictError: It does not wait for approval (`rollout_state`), its release is not published
                (`release_not_published`), or is not what was ordered (`approval_void`).
        """
        principal.require(Permission.APPROVE)

        async def agree(uow: UnitOfWork, row: Rollout, _: Facts) -> None:
            refuse_same_person(principal, row)
            approval = bound_approval(row, await uow.session.get_one(Release, row.release_id))
            row.signatures = msgspec.json.encode(structs.replace(approval, approved_by=principal.name)).decode()
            row.approved_by = principal.name

        return await self._command(principal, rollout, "approve", spoken(principal, "approved it", reason), check=agree)

    async def pause(self, principal: Principal, rollout: str, reason: str = "") -> Commanded:
        """Offer nothing new; what is under way goes on.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such rollout (code `rollout_unknown`).
            ConflictError: Not in this state (code `rollout_state`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        return await self._command(principal, rollout, "pause", spoken(principal, "paused it", reason))

    async def resume(self, principal: Principal, rollout: str, reason: str = "") -> Commanded:
        """Go on, and accept the evidence so far: it does not stop the rollout again.

        Members whose offer was taken back by a halt are queued again.

        Raises:
            NotAllowed: The role does not operate devices; for a halted rollout it does not approve, or the same person
                ordered it and nobody else signed the release (code `same_person`).
            NotFound: There is no such rollout (code `rollout_unknown`).
            ConflictError: Not in this state (`rollout_state`), `release_not_published`, `approval_void`.
        """
        principal.require(Permission.READ)

        async def take_up(uow: UnitOfWork, row: Rollout, facts: Facts) -> None:
            approval = bound_approval(row, await uow.session.get_one(Release, row.release_id))
            _may_resume(principal, row, approval)
            if await member_commands.queue_withdrawn(uow.session, row, facts.now):
                facts = await facts_now(uow, row, facts.now)
            row.accepted = msgspec.json.encode(accept(facts)).decode()

        sentence = spoken(principal, "resumed it and accepts the evidence so far", reason)
        return await self._command(principal, rollout, "resume", sentence, check=take_up)

    async def halt(self, principal: Principal, rollout: str, reason: str = "") -> Commanded:
        """Stop, and take open offers back.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such rollout (code `rollout_unknown`).
            ConflictError: Not in this state (code `rollout_state`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        return await self._command(principal, rollout, "halt", spoken(principal, "halted it", reason))

    async def revert(self, principal: Principal, rollout: str, reason: str = "") -> Commanded:
        """Bring every touched device back to what it had before.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such rollout (code `rollout_unknown`).
            ConflictError: Not in this state (code `rollout_state`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        sentence = spoken(principal, "ordered every touched device back", reason)
        return await self._command(principal, rollout, "revert", sentence)

    async def cancel(self, principal: Principal, rollout: str, reason: str = "") -> Commanded:
        """End it for good: open offers are taken back, what is committed stays.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such rollout (code `rollout_unknown`).
            ConflictError: Not in this state (code `rollout_state`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        return await self._command(principal, rollout, "cancel", spoken(principal, "cancelled it", reason))

    async def advance(self, principal: Principal, rollout: str, reason: str = "") -> Commanded:
        """Close the open wave without waiting for quorum and soak. The gate still counts: what stops, stops.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such rollout (code `rollout_unknown`).
            ConflictError: Not in this state (`rollout_state`), or no wave is open yet (`no_wave_open`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        sentence = spoken(principal, "closed the wave", reason)
        async with self._database.unit_of_work() as uow:
            row = await find_rollout(uow.session, rollout)
            after("advance", row.state)
            if row.wave == 0:
                raise ConflictError(f"{rollout} has not opened a wave yet: wait a moment.", "no_wave_open")
            now = self._clock.now()
            facts = _closed(await facts_now(uow, row, now))
            decision = decide(facts)
            if decision.rule in {"open_wave", "finish"}:
                decision = structs.replace(decision, code=BY_PERSON, sentence=f"{sentence} {decision.sentence}")
                await apply(uow, row, facts, decision, now, actor=principal.name, command="advance")
            else:
                await apply(uow, row, facts, decision, now)
            await uow.commit()
        return commanded(row)

    async def retry(self, principal: Principal, rollout: str, devices: Sequence[str] | None = None) -> Commanded:
        """Offer the release again to members that failed.

        Args:
            principal: Who asks.
            rollout: Its id.
            devices: Ids or serials, also of members that were superseded, withdrawn or skipped; None for all that
                failed or were not heard of.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such rollout or device (codes `rollout_unknown`, `device_unknown`).
            ConflictError: Not in this state (`rollout_state`); a device is no member, or has nothing to try again
                (`not_a_member`, `member_state`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        return await self._member_command(principal, rollout, "retry", devices)

    async def skip(self, principal: Principal, rollout: str, devices: Sequence[str], reason: str) -> Commanded:
        """Leave members out that have not got through yet; an open offer is taken back.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is no such rollout or device (codes `rollout_unknown`, `device_unknown`).
            ConflictError: Not in this state (`rollout_state`); a device is no member, or cannot be left out any more
                (`not_a_member`, `member_state`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        return await self._member_command(principal, rollout, "skip", devices, reason)

    async def _command(
        self,
        principal: Principal,
        rollout: str,
        command: Command,
        sentence: str,
        *,
        check: Check | None = None,
    ) -> Commanded:
        """One command in one transaction.

        Args:
            principal: Who commands it.
            rollout: Its id.
            command: What.
            sentence: Who did what and why.
            check: Refuses, or changes the row, before the command is applied.
        """
        async with self._database.unit_of_work() as uow:
            row = await find_rollout(uow.session, rollout)
            if is_done(command, row, principal):
                return commanded(row)
            state, now = after(command, row.state), self._clock.now()
            facts = await facts_now(uow, row, now)
            if check is not None:
                await check(uow, row, facts)
            decision = decided_by_person(facts, state, sentence)
            await apply(uow, row, facts, decision, now, actor=principal.name, command=command)
            await uow.commit()
        return commanded(row)

    async def _member_command(
        self,
        principal: Principal,
        rollout: str,
        command: Literal["retry", "skip"],
        names: Sequence[str] | None,
        reason: str = "",
    ) -> Commanded:
        async with self._database.unit_of_work() as uow:
            row, now = await find_rollout(uow.session, rollout), self._clock.now()
            after(command, row.state)
            facts = await facts_now(uow, row, now)
            members = await member_commands.named(uow.session, row, names) if names is not None else None
            if command == "retry":
                devices = await member_commands.retry(uow, row, members, now)
            else:
                devices = await member_commands.skip(uow, row, members or {}, now)
            if not devices:
                return commanded(row)
            did = "offers it again to" if command == "retry" else "left out"
            sentence = spoken(principal, f"{did} {_counted(devices)}", reason)
            decision = structs.replace(decided_by_person(facts, row.state, sentence), code=row.code)
            await log_decision(uow, row, principal.name, facts, decision, now, command)
            uow.after_commit(self._fleet.catch_up)
            await uow.commit()
        return commanded(row, devices)


def _may_resume(principal: Principal, row: Rollout, approval: Approval) -> None:
    """Return if this person may resume a rollout that is in this state.

    Raises:
        NotAllowed: See `RolloutService.resume`.
    """
    if row.state != "halted":
        principal.require(Permission.OPERATE_DEVICES)
        return
    principal.require(Permission.APPROVE)
    if not signed_by_two(approval):
        refuse_same_person(principal, row)


def _closed(facts: Facts) -> Facts:
    """The facts, with the open wave closed."""
    waves = (structs.replace(wave, closed_at=facts.now) if wave.wave == facts.wave else wave for wave in facts.waves)
    return structs.replace(facts, waves=tuple(waves))


def _counted(devices: int) -> str:
    return "1 device" if devices == 1 else f"{devices} devices"

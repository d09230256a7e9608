"""One command of a person to a rollout: what it is decided on, what it leads to, and how it is kept."""

from datetime import datetime
from typing import Final

from msgspec import Struct, structs

from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.rollout.commands import Command
from sdx_hub.domain.rollout.deciding import decide
from sdx_hub.domain.rollout.facts import Decision, Facts
from sdx_hub.persistence.tables.rollouts import Rollout
from sdx_hub.persistence.unit_of_work import UnitOfWork
from sdx_hub.services.rollouts.records.facts_rows import load_facts
from sdx_hub.services.rollouts.records.rollout_rows import rollout_id
from sdx_hub.services.rollouts.records.tallying import count_on

MAX_REASON_CHARS: Final = 2_000
BY_PERSON: Final = "by_person"
"""The code of what a person decided."""
_DONE_IN: Final[dict[Command, tuple[str, ...]]] = {
    "pause": ("paused",),
    "resume": ("running",),
    "halt": ("halted",),
    "revert": ("reverting", "reverted"),
    "cancel": ("cancelled",),
}


class Commanded(Struct, frozen=True):
    """A rollout after a command.

    Attributes:
        id: `ro-NUMBER`.
        state: Of the rollout.
        devices: How many members the command itself moved.
    """

    number: int
    id: str
    state: str
    devices: int = 0


def commanded(row: Rollout, devices: int = 0) -> Commanded:
    return Commanded(row.number, rollout_id(row.number), row.state, devices)


def is_done(command: Command, row: Rollout, principal: Principal) -> bool:
    """Whether a command that comes now is one whose answer was lost."""
    if command == "approve":
        return row.approved_by == principal.name
    return row.state in _DONE_IN.get(command, ())


def spoken(principal: Principal, did: str, reason: str) -> str:
    """What somebody did and why, as a sentence.

    Raises:
        BadInput: The reason is too long (code `invalid_reason`).
    """
    if len(reason) > MAX_REASON_CHARS:
        raise BadInput(f"Say why in at most {MAX_REASON_CHARS} characters.", "invalid_reason")
    because = reason.strip().rstrip(".")
    return f"{principal.name} {did}: {because}." if because else f"{principal.name} {did}."


async def facts_now(uow: UnitOfWork, row: Rollout, now: datetime) -> Facts:
    """The facts, with everything counted that is known in this transaction."""
    await count_on(uow, row)
    return await load_facts(uow.session, row, now)


def decided_by_person(facts: Facts, state: str, sentence: str) -> Decision:
    """The gate as it reads, and what a person made of it."""
    return structs.replace(
        decide(facts), rule="go_on", state=state, wave=facts.wave, code=BY_PERSON, sentence=sentence, slots=0
    )

"""The journal: the state of the update and what the device holds, in one file that changes atomically.

One file, because floors, installed records and bad digests must change in the same instant as the state: a power cut
must find either "in trial, old floors" or "committed, new floors".
"""

import msgspec
from msgspec import Struct

from device_agent.core.errors import SettingsError
from device_agent.core.machine import Effect, effects_of, step
from device_agent.core.plan import Item, Plan, ReleaseRecord
from device_agent.core.states import (
    AnyState,
    Committed,
    Event,
    Failed,
    Idle,
    Reported,
    RolledBack,
    RollingBack,
    Trial,
    VerifiedState,
)
from firmware_schemas.device_api import InstalledComponent, Result

MAX_FINISHED = 64
MAX_BAD = 256


class InstalledItem(Struct, frozen=True):
    """A committed component, with what is needed to read it back from its slot."""

    component: InstalledComponent
    length: int
    file_name: str


class BadSet(Struct, frozen=True):
    """Digests that were rolled back together here, sorted."""

    digests: tuple[str, ...]
    components: tuple[str, ...]
    action: str
    code: str


class LastResult(Struct, frozen=True):
    """How the last action ended, for `sdx-agent status`."""

    action: str
    result: Result
    code: str
    detail: str


class Journal(Struct, frozen=True, omit_defaults=True):
    """Everything durable about updates.

    Attributes:
        installed: Committed components, sorted by name.
        releases: Committed releases, sorted by product.
        floors: Product to the smallest release counter that may still be installed: the largest of what the committed
            releases said.
        finished: The last actions that have their one final result.
        last: How the last of them ended.
    """

    state: AnyState = msgspec.field(default_factory=Idle)
    installed: tuple[InstalledItem, ...] = ()
    releases: tuple[ReleaseRecord, ...] = ()
    floors: dict[str, int] = msgspec.field(default_factory=dict)
    bad: tuple[BadSet, ...] = ()
    finished: tuple[str, ...] = ()
    last: LastResult | None = None

    def effects(self) -> tuple[Effect, ...]:
        return effects_of(self.state)

    def bad_sets(self) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(entry.digests) for entry in self.bad)


def advance(journal: Journal, event: Event) -> Journal:
    """The journal after an event: the state of the table, and the records that change with it.

    Raises:
        UnknownEvent: The event means nothing now.
    """
    before = journal.state
    after, _effects = step(before, event)
    changed = msgspec.structs.replace(journal, state=after)
    if isinstance(after, Committed) and isinstance(before, Trial | VerifiedState):
        return _commit(changed, before.plan.value)
    if isinstance(after, RolledBack) and isinstance(before, RollingBack):
        return _remember_bad(changed, before)
    if isinstance(after, Reported) and isinstance(before, Committed | Failed | RolledBack):
        return msgspec.structs.replace(changed, last=result_of(before))
    if isinstance(after, Idle) and isinstance(before, Reported):
        return msgspec.structs.replace(changed, finished=(*journal.finished, before.action)[-MAX_FINISHED:])
    return changed


def result_of(state: Committed | Failed | RolledBack) -> LastResult:
    """The one final result that a state stands for."""
    match state:
        case Committed():
            return LastResult(state.action, "success", "", "")
        case Failed():
            return LastResult(state.action, state.result, state.code, state.detail)
        case RolledBack():
            return LastResult(state.action, "rolled_back", state.code, state.detail)


def _commit(journal: Journal, plan: Plan) -> Journal:
    """Record the new set, and raise the floors: here and nowhere else."""
    fresh = {item.component.name: item for item in plan.items}
    kept = {entry.component.name: entry for entry in journal.installed}
    for component in plan.components:
        kept[component.name] = _installed(component, fresh.get(component.name), kept.get(component.name))
    releases = {record.product: record for record in journal.releases}
    releases.update({record.product: record for record in plan.releases})
    floors = dict(journal.floors)
    for record in plan.releases:
        # A manifest without a counter to go back to means its own; whatever it says, a floor never sinks.
        floors[record.product] = max(record.floor, floors.get(record.product, 0))
    return msgspec.structs.replace(
        journal,
        installed=tuple(kept[name] for name in sorted(kept)),
        releases=tuple(releases[product] for product in sorted(releases)),
        floors=dict(sorted(floors.items())),
    )


def _installed(component: InstalledComponent, item: Item | None, old: InstalledItem | None) -> InstalledItem:
    if item is not None:
        return InstalledItem(component, item.length, item.file_name)
    if old is None:
        raise RuntimeError(f"{component.name} is in the plan as unchanged, but it was never installed.")
    return InstalledItem(component, old.length, old.file_name)


def _remember_bad(journal: Journal, state: RollingBack) -> Journal:
    plan = state.plan.value
    digests = tuple(sorted({item.component.sha256 for item in plan.items}))
    names = tuple(item.component.name for item in plan.items)
    known = [entry for entry in journal.bad if entry.digests != digests]
    known.append(BadSet(digests, names, plan.action, state.code))
    return msgspec.structs.replace(journal, bad=tuple(known[-MAX_BAD:]))


def forget_bad(journal: Journal, prefix: str) -> Journal:
    """The journal without the bad sets that hold a digest starting with `prefix`."""
    kept = tuple(entry for entry in journal.bad if not any(digest.startswith(prefix) for digest in entry.digests))
    return msgspec.structs.replace(journal, bad=kept)


def encode(journal: Journal) -> bytes:
    return msgspec.json.encode(journal)


def decode(raw: bytes) -> Journal:
    """Read a journal back.

    Raises:
        SettingsError: It is damaged. Guessing would lose the floors, so a person must decide.
    """
    try:
        return msgspec.json.decode(raw, type=Journal)
    except msgspec.DecodeError as error:
        raise SettingsError(
            f"journal.json is damaged ({error}). Nothing is changed: restore the file or enrol the device again.",
            "journal_damaged",
        ) from error

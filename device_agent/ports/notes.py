"""Two small files by which poller and worker talk: what the hub wants, and when the worker wants to be started again.

Losing them costs nothing (the next poll tells anew), so they are replaced atomically but not waited for.
"""

from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from device_agent.ports.storage import Storage, read_optional


class Problem(Struct, frozen=True):
    """What went wrong last, for people."""

    code: str
    detail: str


class PollNote(Struct, frozen=True):
    """poll.json.

    Attributes:
        action: What the hub wants now; empty where nothing is assigned.
        known: Whether a poll has been answered since the agent started.
    """

    action: str = ""
    known: bool = False
    error: Problem | None = None


class WorkerNote(Struct, frozen=True):
    """worker.json, written when a worker exits.

    Attributes:
        wake_s: Seconds until the next worker should be started; None where only the hub can give it work.
        attempt: How many workers in a row ended with an error.
        gate: What the flight gate said last; empty where it was not asked.
        hint: What the poll named when the action under way was offered; None where none is.
        served: What the poll named for the last action that ended: the signed one may have another name, and the same
            poll is no reason to begin again.
    """

    wake_s: float | None = None
    attempt: int = 0
    error: Problem | None = None
    gate: str = ""
    hint: str | None = None
    served: str | None = None


class _State(Struct, frozen=True):
    state: str = "IDLE"


class Glance(Struct, frozen=True):
    """As much of the journal as a poller needs to know whether there is a duty."""

    state: _State = _State()
    finished: tuple[str, ...] = ()

    def has_duty(self, action: str) -> bool:
        return self.state.state != "IDLE" or bool(action and action not in self.finished)


_Note = TypeVar("_Note", PollNote, WorkerNote)


def write_note(storage: Storage, path: Path, note: PollNote | WorkerNote) -> None:
    temporary = path.with_name(path.name + ".next")
    storage.write_file(temporary, msgspec.json.encode(note))
    storage.rename(temporary, path)


def read_poll(path: Path) -> PollNote:
    return _read(path, PollNote)


def read_worker(path: Path) -> WorkerNote:
    return _read(path, WorkerNote)


def glance(path: Path) -> Glance | None:
    """What the journal says; None where it cannot be read, which the worker will say in full."""
    try:
        raw = read_optional(path)
        return msgspec.json.decode(raw, type=Glance) if raw is not None else Glance()
    except (msgspec.DecodeError, ValueError):
        return None


def _read(path: Path, kind: type[_Note]) -> _Note:
    try:
        raw = read_optional(path)
        return msgspec.json.decode(raw, type=kind) if raw else kind()
    except (msgspec.DecodeError, ValueError):
        return kind()

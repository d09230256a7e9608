"""The part of the agent that verifies and installs; a process of its own that exits when it has to wait.

`work` is one run of it, as the poller starts it (`python -m device_agent.worker`). `run` is the whole of `sdx-agent run
--once` in this process: poll, work through every wait, deliver. It is what a power-cut test calls, with a storage that
stops at the operation of its choice.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from device_agent.core.errors import AgentError, TransportError
from device_agent.core.journal import LastResult
from device_agent.ports.clock import Clock, SystemClock
from device_agent.ports.commands import Commands, ProcessCommands
from device_agent.ports.home import Home
from device_agent.ports.hub import Link
from device_agent.ports.lock import locked
from device_agent.ports.notes import PollNote, Problem, WorkerNote, read_worker, write_note
from device_agent.ports.outbox import Outbox
from device_agent.ports.polling import Poller
from device_agent.ports.storage import DiskStorage, Storage
from device_agent.ports.token import settle_token
from device_agent.worker.loop import Wanted, Worker
from device_agent.worker.pause import Pause
from device_agent.worker.workplace import Workplace, furnish
from firmware_schemas.device_api import PollAnswer

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REFUSED = 5

MAX_GATE_WAITS = 5
"""`run --once` asks a closed gate so often, then it ends: the craft may fly for hours."""
_NO_TRUST_RULE = frozenset({"storage_too_small"})

Uniform = Callable[[float, float], float]


def work(
    place: Workplace, wanted: Wanted, *, restarted: bool, inventory: bool = False, rotate_token: bool = False
) -> tuple[Pause, list[LastResult]]:
    """One run of a worker, and its note for the poller.

    Args:
        place: Tools.
        wanted: The action that the hub wants now.
        restarted: The agent started, or the last worker died.
        inventory: The hub asks for an inventory.
        rotate_token: The hub asks for a new poll token.

    Returns:
        What it waits for, and the actions that ended in this run.

    Raises:
        SettingsError: The journal is damaged.
    """
    before = WorkerNote() if restarted else read_worker(place.home.worker)
    worker = Worker(place, wanted, before)
    with suppress(OSError):  # A full medium: the duty of the state comes first.
        place.reporter.usage(place.usage)
    pause = worker.run(restarted=restarted)
    if rotate_token:
        place.reporter.rotate_token()
    if inventory and not worker.reported_inventory:
        place.reporter.inventory(worker.journal)
    place.budget.save()
    write_note(place.storage, place.home.worker, worker.note(pause))
    return pause, worker.ended


def run(
    state: Path,
    *,
    storage: Storage | None = None,
    clock: Clock | None = None,
    commands: Commands | None = None,
    hub: Link | None = None,
    uniform: Uniform = random.uniform,
) -> int:
    """`sdx-agent run --once` in this process: poll, do all that is to be done, deliver the reports, and end.

    Nothing is kept between two calls but the state folder, so a call after one that was interrupted by any exception
    (a simulated power cut) is what a restarted agent does.

    Args:
        state: The folder of an enrolled device.
        storage: Every durable operation goes through it; the disk where None.
        clock: Sleeps between polls, gate and health checks are its `sleep`.
        commands: Health checks, activation and gate.
        hub: Instead of HTTP to the hub in agent.toml; see `device_agent.ports.hub.Link`.
        uniform: For jitter.

    Returns:
        The exit code: 0 when done or nothing to do, 5 when the instruction was refused by a trust rule, else 1.

    Raises:
        SettingsError: The folder cannot be used, or another agent works in it.
    """
    home = Home(state)
    with locked(home.agent_lock), locked(home.worker_lock):
        place = furnish(
            home,
            storage=storage or DiskStorage(),
            clock=clock or SystemClock(),
            commands=commands or ProcessCommands(),
            hub=hub,
            uniform=uniform,
        )
        try:
            return _run_once(place)
        finally:
            place.hub.close()


def _run_once(place: Workplace) -> int:
    with suppress(OSError):
        place.usage.running.save_if_due()
    answer, error = _poll(place)
    wanted = None if answer is None else answer.action
    note = PollNote(wanted or "", known=answer is not None, error=_problem(error))
    write_note(place.storage, place.home.poll, note)
    ended: list[LastResult] = []
    gate_waits = 0
    first = True
    while True:
        pause, just_ended = work(
            place,
            lambda: wanted,
            restarted=first,
            inventory=first and answer is not None and answer.inventory,
            rotate_token=first and answer is not None and answer.rotate_token,
        )
        first = False
        ended += just_ended
        delivery = _deliver(place)
        gate_waits += 1 if pause.gate else 0
        if pause.wake_s is None or pause.error is not None or gate_waits > MAX_GATE_WAITS:
            break
        place.clock.sleep(pause.wake_s)
    if pause.error is not None or pause.gate or error is not None or delivery is not None:
        return _of_results(ended) or EXIT_FAILED
    return _of_results(ended)


def _of_results(ended: list[LastResult]) -> int:
    if not ended or ended[-1].result == "success":
        return EXIT_DONE
    refused = ended[-1].result == "refused" and ended[-1].code not in _NO_TRUST_RULE
    return EXIT_REFUSED if refused else EXIT_FAILED


def _poll(place: Workplace) -> tuple[PollAnswer | None, AgentError | None]:
    try:
        return Poller(place.hub).poll().answer, None
    except TransportError as error:
        return None, error


def _deliver(place: Workplace) -> AgentError | None:
    try:
        receipts = Outbox(place.home.outbox, place.storage).deliver(place.hub)
    except TransportError as error:
        return error
    settle_token(place.home, place.storage, receipts)
    return None


def _problem(error: AgentError | None) -> Problem | None:
    return None if error is None else Problem(error.code, str(error))


__all__ = ["run", "work"]

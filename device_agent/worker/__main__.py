"""`python -m device_agent.worker`: what the polling process starts when there is work, and what exits when done.

Options: --state DIR, --restarted, --inventory, --rotate-token. What the hub wants is read from STATE/poll.json, again
and again, because it may change meanwhile.
"""

import argparse
import sys
from pathlib import Path

from device_agent.core.errors import AgentError
from device_agent.ports.clock import SystemClock
from device_agent.ports.commands import ProcessCommands
from device_agent.ports.home import Home
from device_agent.ports.lock import locked
from device_agent.ports.notes import Problem, WorkerNote, read_poll, read_worker, write_note
from device_agent.ports.storage import DiskStorage
from device_agent.worker import work
from device_agent.worker.workplace import furnish

_RETRY_S = 300.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="device_agent.worker")
    parser.add_argument("--state", type=Path, required=True)
    for flag in ("--restarted", "--inventory", "--rotate-token"):
        parser.add_argument(flag, action="store_true")
    options = parser.parse_args()
    home = Home(options.state)

    def wanted() -> str | None:
        note = read_poll(home.poll)
        return note.action if note.known else None

    storage = DiskStorage()
    try:
        with locked(home.worker_lock):
            place = furnish(home, storage=storage, clock=SystemClock(), commands=ProcessCommands())
            pause, ended = work(
                place,
                wanted,
                restarted=options.restarted,
                inventory=options.inventory,
                rotate_token=options.rotate_token,
            )
    except AgentError as error:
        sys.stderr.write(f"{error} ({error.code})\n")
        attempt = read_worker(home.worker).attempt + 1
        write_note(storage, home.worker, WorkerNote(_RETRY_S, attempt, Problem(error.code, str(error))))
        return 1
    for last in ended:
        sys.stderr.write(f"{last.action}: {last.result} {last.code} {last.detail}\n")
    if pause.error is not None:
        sys.stderr.write(f"{pause.error} ({pause.error.code})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

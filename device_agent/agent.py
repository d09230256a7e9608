"""The polling process: light, because it is there while the craft flies.

It polls, delivers signed reports, and starts a worker when the poll says that something changed, when the journal has a
duty, or when a worker asked to be started again. It imports no TUF, no cryptography and no decompressor, and never
writes the journal. While a worker runs it goes on polling: what the hub wants now lies in poll.json, where the worker
looks again and again.
"""

import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from device_agent.core.backoff import delay_s, poll_again_s
from device_agent.core.errors import TransportError
from device_agent.ports.clock import Clock
from device_agent.ports.home import Home
from device_agent.ports.hub import Link
from device_agent.ports.notes import PollNote, Problem, WorkerNote, glance, read_worker, write_note
from device_agent.ports.outbox import Outbox
from device_agent.ports.polling import Poller
from device_agent.ports.service import ServiceManager
from device_agent.ports.storage import Storage
from device_agent.ports.token import settle_token
from device_agent.ports.usage import Usage

_LOOK_S = 1.0
"""How often a running worker and the outbox are looked at."""
_STOP_S = 10.0
_PENDING_S = 30.0
"""Longest wait between polls where a person is about to accept the device."""
_NEVER = float("inf")

Say = Callable[[str], None]
Uniform = Callable[[float, float], float]


class Agent:
    """The loop.

    Args:
        home: An enrolled device's state folder.
        hub: Where to poll.
        storage: For the poll's note and the outbox.
        clock: Monotonic time and sleep.
        service: Told that we are ready and alive.
        usage: Looked at now and then: only a worker can sign what there is to report.
        say: Takes a line for the log.
        uniform: For jitter.
    """

    def __init__(
        self,
        home: Home,
        hub: Link,
        *,
        storage: Storage,
        clock: Clock,
        service: ServiceManager,
        usage: Usage,
        say: Say,
        uniform: Uniform = random.uniform,
    ) -> None:
        self._home, self._hub, self._storage, self._clock = home, hub, storage, clock
        self._service, self._usage, self._say, self._uniform = service, usage, say, uniform
        self._poller = Poller(hub)
        self._outbox = Outbox(home.outbox, storage)
        self._worker: subprocess.Popen[bytes] | None = None
        self._note = PollNote()
        self._failed_polls = self._failed_deliveries = 0
        self._polled = False
        self._poll_at = self._deliver_at = 0.0
        self._work_at = _NEVER
        self._look_at = 0.0
        self._restarted = True
        self._flags: list[str] = []

    def run(self) -> None:
        """Poll for ever; ends only by an exception (SystemExit, when the process is asked to stop)."""
        write_note(self._storage, self._home.poll, self._note)
        # A duty of the journal does not wait for the hub: a craft may wake in the middle of a trial, without a link.
        if (seen := glance(self._home.journal)) is None or seen.has_duty(""):
            self._work_at = 0.0
        self._service.ready()
        try:
            while True:
                self.turn()
        finally:
            self._service.stopping()
            self._stop_worker()
            with suppress(OSError):
                self._usage.running.save()
            self._hub.close()

    def turn(self) -> None:
        """Everything that is due, and then a sleep until something is."""
        self._service.alive()
        self._polled = False
        self._reap()
        if self._clock.monotonic_s() >= self._poll_at:
            self._poll()
        if self._clock.monotonic_s() >= self._deliver_at and self._reports_wait():
            self._deliver()
        self._count()
        if self._worker is None and self._clock.monotonic_s() >= self._work_at:
            self._start_worker()
        self._sleep()

    def _poll(self) -> None:
        try:
            polled = self._poller.poll()
        except TransportError as error:
            self._failed_polls += 1
            wait_s = (
                delay_s(self._failed_polls, self._uniform, longest_s=_PENDING_S, retry_after_s=error.retry_after_s)
                if error.code == "device_pending"
                else poll_again_s(
                    self._failed_polls, self._poller.interval_s, self._uniform, retry_after_s=error.retry_after_s
                )
            )
            self._poll_at = self._clock.monotonic_s() + wait_s
            self._remember(self._note.action, self._note.known, Problem(error.code, str(error)))
            return
        if self._failed_polls:
            self._failed_polls, self._deliver_at = 0, 0.0  # The hub is back: so are the reports.
        self._polled = True
        self._poll_at = self._clock.monotonic_s() + self._poller.next_in_s(polled.interval_s, self._uniform)
        answer = polled.answer
        if answer is None:
            self._remember(self._note.action, self._note.known, None)
            return
        self._remember(answer.action, True, None)
        wishes = {"--inventory": answer.inventory, "--rotate-token": answer.rotate_token}
        self._flags = [flag for flag, wished in wishes.items() if wished]
        seen = glance(self._home.journal)
        if self._flags or seen is None or seen.has_duty(answer.action):
            self._work_at = 0.0

    def _remember(self, action: str, known: bool, error: Problem | None) -> None:
        note = PollNote(action, known, error)
        if note == self._note:
            return
        if error is not None and error != self._note.error:
            self._say(f"{error.detail} ({error.code})")
        if action != self._note.action:
            self._say(f"The hub wants {action or 'nothing'}.")
        self._service.status(error.detail if error is not None else f"last poll: {action or 'nothing to do'}")
        self._note = note
        write_note(self._storage, self._home.poll, note)

    def _reports_wait(self) -> bool:
        """Whether there is something to deliver: patient reports only right behind a poll."""
        return bool(self._outbox.counters(patient=self._polled))

    def _deliver(self) -> None:
        try:
            receipts = self._outbox.deliver(self._hub)
        except TransportError as error:
            self._failed_deliveries += 1
            wait_s = delay_s(self._failed_deliveries, self._uniform, retry_after_s=error.retry_after_s)
            self._deliver_at = self._clock.monotonic_s() + wait_s
            self._say(f"Reports wait: {error} ({error.code})")
            return
        self._failed_deliveries = 0
        self._deliver_at = 0.0
        for receipt in receipts:
            if receipt.status == "refused":
                self._say(f"The hub refused report {receipt.counter}: {receipt.detail} ({receipt.code})")
        settle_token(self._home, self._storage, receipts)

    def _count(self) -> None:
        """Keep the time that the craft was on, and have a worker report its use when there is something to say."""
        with suppress(OSError):  # A full medium is no reason to stop polling.
            self._usage.running.save_if_due()
        if self._worker is None and self._clock.monotonic_s() >= self._look_at:
            if self._usage.news() is not None:
                self._work_at = 0.0
            self._look_at = self._clock.monotonic_s() + self._usage.look_in_s()

    def _start_worker(self) -> None:
        flags = ["--restarted", *self._flags] if self._restarted else self._flags
        command = [sys.executable, "-P", "-m", "device_agent.worker", "--state", str(self._home.root), *flags]
        self._worker = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - our own module
        self._work_at = _NEVER
        self._restarted, self._flags = False, []

    def _reap(self) -> None:
        """Take note of a worker that has ended, and of when the next one is wanted."""
        if self._worker is None or (status := self._worker.poll()) is None:
            return
        self._worker = None
        if status != 0:
            # It died, or could not begin: the next one is told, and the table has a row for that.
            self._restarted = True
            self._say(f"The worker ended with status {status}.")
        note = read_worker(self._home.worker)
        wake_s = note.wake_s if status == 0 else self._after_a_crash_s(note)
        now_s = self._clock.monotonic_s()
        if wake_s is not None:
            self._work_at = min(self._work_at, now_s + wake_s)
        elif self._note.action != note.served and (
            (seen := glance(self._home.journal)) is None or seen.has_duty(self._note.action)
        ):
            self._work_at = now_s  # The hub changed its mind while the worker was ending.

    def _after_a_crash_s(self, note: WorkerNote) -> float:
        return delay_s(max(note.attempt, 1), self._uniform, base_s=10.0)

    def _sleep(self) -> None:
        """Until the next thing is due; shorter while a worker runs, and for the watchdog."""
        due_s = min(self._poll_at, self._work_at if self._worker is None else _NEVER)
        if self._reports_wait():
            due_s = min(due_s, self._deliver_at)
        if self._worker is None:
            due_s = min(due_s, self._look_at)
        wait_s = min(max(due_s - self._clock.monotonic_s(), 0.0), max(self._usage.running.due_in_s(), _LOOK_S))
        if self._service.watchdog_s:
            wait_s = min(wait_s, self._service.watchdog_s / 3)
        if self._worker is None:
            self._clock.sleep(wait_s)
            return
        try:
            self._worker.wait(min(wait_s, _LOOK_S))
        except subprocess.TimeoutExpired:
            return

    def _stop_worker(self) -> None:
        if self._worker is not None and self._worker.poll() is None:
            self._worker.terminate()
            try:
                self._worker.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._worker.kill()
                self._worker.wait()

"""The real agent in a forked child, on a fragile medium, until the power is cut or nothing is left to do.

Every boot is a new process: what it knows is what the last one left on the medium. The power can be cut before, in the
middle of and after each storage operation, around each method of a handler, around each command (health check,
activation), and around each exchange with the hub: an answer that was lost on the way looks like that.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from device_agent import worker
from device_agent.handlers.slots import Handler
from device_agent.ports.clock import SystemClock
from device_agent.ports.commands import Outcome, ProcessCommands
from device_agent.ports.home import Home
from device_agent.ports.hub import Answer, Hub, Link, Stream
from device_agent.ports.identity import read_identity, read_settings
from device_agent.ports.notes import glance, read_worker
from device_agent.ports.outbox import Outbox
from device_agent.worker import workplace
from tests.faults.medium import FragileStorage, Loss, Medium

CUT, DONE, BROKEN = 86, 0, 70

Point = Callable[[str], None]
"""Called with the name of each moment at which the power can be cut."""


class Cut(NamedTuple):
    """When the power is cut: at the nth point of a boot (0: never), and what that does to the medium."""

    at: int
    loss: Loss = Loss.NOTHING


class Boot(NamedTuple):
    """How a boot ended.

    Attributes:
        was_cut: By the power; else it had nothing more to do.
        passed: The points in order; the last one is where the power was cut.
    """

    was_cut: bool
    passed: list[str]

    @property
    def where(self) -> str:
        return f"point {len(self.passed)}, {self.passed[-1]}" if self.passed else "no point"


def boot(state: Path, cut: Cut, first: Callable[[FragileStorage, Point], None] | None = None) -> Boot:
    """Start the agent and wait until it ends, one way or the other.

    Args:
        state: Its folder.
        cut: When the power goes.
        first: Done in the same boot before the agent starts, on the same medium.
    """
    report = state.parent / "boot.json"
    report.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_the_agent(state, cut, report, first)
    _pid, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    said: list[str] = json.loads(report.read_text()) if report.exists() else []
    assert code in {CUT, DONE}, f"the agent failed at {cut}: {said[-1] if said else code}"
    return Boot(code == CUT, said)


def _be_the_agent(
    state: Path, cut: Cut, report: Path, first: Callable[[FragileStorage, Point], None] | None
) -> NoReturn:
    """The child: never returns, whatever happens, and runs no clean-up of the test's process."""
    code = BROKEN
    passed: list[str] = []
    try:
        medium = Medium(state)

        def point(label: str) -> None:
            passed.append(label)
            if len(passed) == cut.at:
                medium.lose(cut.loss, cut.at)
                report.write_text(json.dumps(passed))
                os._exit(CUT)

        storage = FragileStorage(medium, point)
        if first is not None:
            first(storage, point)
        live(state, storage, point)
        code = DONE
    except BaseException:
        passed.append(traceback.format_exc())
    finally:
        report.write_text(json.dumps(passed))
        os._exit(code)


def live(state: Path, storage: FragileStorage, point: Point) -> None:
    """What `sdx-agent run --once` does: poll, work until nothing is left to do, deliver the reports."""
    home, clock = Home(state), SystemClock()
    settings = read_settings(home)
    hub = Hub(settings.hub, lambda: read_identity(home).token, clock, silence_s=settings.limits.socket_timeout_s)
    real = workplace.handlers
    workplace.handlers = lambda slots, storage: pointed_handlers(real(slots, storage), point)
    worker.run(state, storage=storage, clock=clock, commands=PointedCommands(point), hub=PointedLink(hub, point))
    seen, waiting = glance(home.journal), Outbox(home.outbox, storage).counters()
    if seen is None or seen.state.state != "IDLE" or waiting:
        raise RuntimeError(f"Not at rest: {seen}, reports that wait: {waiting}, {read_worker(home.worker)}")


class PointedLink:
    """The link to the hub, with a point before each request and after each answer."""

    def __init__(self, hub: Link, point: Point) -> None:
        self._hub, self._point = hub, point

    def exchange(self, method: str, path: str, **more: Any) -> Answer:
        self._point(f"before {method} {path}")
        answer = self._hub.exchange(method, path, **more)
        self._point(f"after {method} {path}")
        return answer

    @contextmanager
    def stream(self, method: str, path: str, **more: Any) -> Iterator[Stream]:
        self._point(f"before {method} {path}")
        with self._hub.stream(method, path, **more) as stream:
            yield stream
        self._point(f"after {method} {path}")

    def close(self) -> None:
        self._hub.close()


class PointedCommands(ProcessCommands):
    """Real processes, with a point before and after each."""

    def __init__(self, point: Point) -> None:
        self._point = point

    def run(self, argv: Sequence[str], folder: Path | None, timeout_s: float) -> Outcome:
        self._point(f"before command {argv[0]}")
        outcome = super().run(argv, folder, timeout_s)
        self._point(f"after command {argv[0]}")
        return outcome


class PointedHandler:
    """A handler, with a point before and after each of its methods."""

    def __init__(self, kind: str, handler: Handler, point: Point) -> None:
        self._kind, self._handler, self._point = kind, handler, point

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._handler, name)
        if not callable(method):
            return method

        def step(*arguments: Any) -> Any:
            self._point(f"before {name} of {self._kind}")
            result = method(*arguments)
            self._point(f"after {name} of {self._kind}")
            return result

        return step


def pointed_handlers(handlers: Mapping[str, Handler], point: Point) -> dict[str, Any]:
    return {kind: PointedHandler(kind, handler, point) for kind, handler in handlers.items()}

"""`sdx-agent`: enrol, run, status, forget-bad.

Exit codes: 0 ok, 1 failed, 2 usage, 3 nothing to do, 4 not allowed, 5 signature or trust refused. Modules are imported
by the command that needs them: `run` must stay light.
"""

import argparse
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from device_agent import AGENT_VERSION
from device_agent.core.errors import AgentError, SettingsError, TransportError, TrustError
from device_agent.ports.home import Home

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NOTHING, EXIT_NOT_ALLOWED, EXIT_REFUSED = range(6)
_MAX_TOKEN_CHARS = 1_024


def main(argv: list[str] | None = None) -> int:
    """The entry point.

    Args:
        argv: Arguments; those of the process where None.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(argv)
    try:
        code: int = options.command(options)
    except AgentError as error:
        _show(options, {"error": {"code": error.code, "detail": str(error)}}, f"{error} ({error.code})", sys.stderr)
        return _exit_code(error)
    return code


def _exit_code(error: AgentError) -> int:
    if isinstance(error, TrustError):
        return EXIT_REFUSED
    if isinstance(error, TransportError) and error.status in {401, 403}:
        return EXIT_NOT_ALLOWED
    return EXIT_USAGE if isinstance(error, SettingsError) and error.code == "usage" else EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdx-agent", description="Keeps one craft on the software that it should run."
    )
    parser.add_argument("--version", action="version", version=AGENT_VERSION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=command)
        sub.add_argument(
            "--state", type=Path, required=True, help="the agent's folder, for instance /var/lib/sdx-agent"
        )
        sub.add_argument("--json", action="store_true", help="one JSON object on standard output")
        return sub

    enrol = add("enrol", _enrol, "Make this craft known to a hub.")
    enrol.add_argument("--hub", required=True, help="https://...")
    told = enrol.add_mutually_exclusive_group(required=True)
    told.add_argument(
        "--token",
        metavar="T",
        help="the enrolment string (sdxe_...); it is single-use, and visible in the list of processes while this runs",
    )
    told.add_argument("--token-file", metavar="F", help="a file with the enrolment string; - is standard input")
    enrol.add_argument("--serial", help="default: the board's serial number, or the host's name")
    enrol.add_argument("--hardware", help="default: linux-MACHINE")
    run = add("run", _run, "Poll, verify, install, prove and report, until stopped.")
    run.add_argument("--once", action="store_true", help="poll once, do all that is to be done, report, and end")
    add("status", _status, "Say what runs, what is under way and what went wrong last.")
    forget = add("forget-bad", _forget_bad, "Allow content again that was rolled back here.")
    forget.add_argument("digest", help="the beginning of a digest, as status or the refusal shows it; 8 or more digits")
    return parser


# -- commands --------------------------------------------------------------------------------------------------------


def _enrol(options: argparse.Namespace) -> int:
    from device_agent.enrolment import default_hardware, default_serial, enrol
    from device_agent.ports.clock import SystemClock
    from device_agent.ports.storage import DiskStorage
    from firmware_schemas.device_api import parse_enrol_string
    from firmware_schemas.errors import SchemaError

    try:
        told = parse_enrol_string(_told(options))
    except SchemaError as error:
        raise SettingsError(str(error), "usage") from error
    done = enrol(
        Home(options.state.absolute()),
        options.hub,
        told,
        options.serial or default_serial(),
        options.hardware or default_hardware(),
        storage=DiskStorage(),
        clock=SystemClock(),
    )
    text = f"Enrolled as {done.device_id}."
    if done.state == "pending":
        text += " It waits until an operator accepts it: sdx device accept."
    _show(options, {"device_id": done.device_id, "state": done.state}, text)
    return EXIT_OK


def _told(options: argparse.Namespace) -> str:
    if options.token is not None:
        return str(options.token)
    if options.token_file == "-":  # noqa: S105 - standard input
        return sys.stdin.read(_MAX_TOKEN_CHARS)
    try:
        with Path(options.token_file).open() as file:
            return file.read(_MAX_TOKEN_CHARS)
    except OSError as error:
        raise SettingsError(f"{options.token_file} cannot be read: {error.strerror}.", "usage") from error


def _run(options: argparse.Namespace) -> int:
    _end_on_sigterm()
    if options.once:
        from device_agent.worker import run

        return run(options.state.absolute())
    return _poll_for_ever(Home(options.state.absolute()))


def _poll_for_ever(home: Home) -> int:
    from device_agent.agent import Agent
    from device_agent.ports.clock import SystemClock
    from device_agent.ports.hub import Hub
    from device_agent.ports.identity import read_identity, read_settings
    from device_agent.ports.lock import locked
    from device_agent.ports.service import ServiceManager
    from device_agent.ports.storage import DiskStorage
    from device_agent.ports.usage import Usage

    with locked(home.agent_lock):
        settings, clock, storage = read_settings(home), SystemClock(), DiskStorage()
        read_identity(home)
        hub = Hub(settings.hub, lambda: read_identity(home).token, clock, silence_s=settings.limits.socket_timeout_s)
        usage = Usage(home, settings.usage, storage, clock)
        agent = Agent(home, hub, storage=storage, clock=clock, service=ServiceManager(), usage=usage, say=_log)
        agent.run()
    return EXIT_OK


def _status(options: argparse.Namespace) -> int:
    from device_agent.status import describe, sentences

    found = describe(Home(options.state.absolute()))
    _show(options, found, "\n".join(sentences(found)))
    return EXIT_OK


def _forget_bad(options: argparse.Namespace) -> int:
    from device_agent.core import journal as journals
    from device_agent.ports.lock import locked
    from device_agent.ports.storage import DiskStorage, read_optional, replace_file

    digest = options.digest.lower()
    if len(digest) < 8 or set(digest) - set("0123456789abcdef"):
        raise SettingsError("Name the digest by 8 or more hexadecimal digits.", "usage")
    home = Home(options.state.absolute())
    with locked(home.worker_lock):
        journal = journals.decode(read_optional(home.journal) or b"{}")
        after = journals.forget_bad(journal, digest)
        if after == journal:
            _show(options, {"forgotten": 0}, f"Nothing that was rolled back here begins with {digest}.")
            return EXIT_NOTHING
        replace_file(DiskStorage(), home.journal, journals.encode(after))
    count = len(journal.bad) - len(after.bad)
    _show(options, {"forgotten": count}, "Forgotten. Assign the release again to have it tried.")
    return EXIT_OK


# -- output ----------------------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace, document: dict[str, Any], text: str, stream: Any = None) -> None:
    """JSON on standard output, or text for people."""
    if options.json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        return
    (stream or sys.stdout).write(text + "\n")


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _end_on_sigterm() -> None:
    """Have a request to stop unwind the stack, so that locks and children are let go."""

    def end(_number: int, _frame: object) -> NoReturn:
        raise SystemExit(EXIT_OK)

    signal.signal(signal.SIGTERM, end)

"""Run the hub: granian in front, one process for each worker, all with the same database and the same port."""

import asyncio
import ctypes
import gc
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import structlog
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import Server

from sdx_hub import logs
from sdx_hub.adapters import tracing
from sdx_hub.cli.failures import UsageFault
from sdx_hub.ending import Ending
from sdx_hub.settings import Settings

GRACE_S = 20
"""So long may requests take to end after SIGTERM."""
_PR_SET_PDEATHSIG = 1
_ANNOUNCE_EVERY_S = 0.01
_HEAD_BYTES = 256 * 1024
_BACKLOG = 4096
_SLACK_S, _MAX_IDLE_S = 30, 900
_CONNECTIONS = 100_000
"""Of one worker. Granian counts kept connections as work under way: its default would shut out the 1,025th craft."""
_log = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then let requests end, write what is in memory, and return.

    Raises:
        UsageFault: The address cannot be used (code `address_unusable`), or the certificate (`certificate_unusable`).
        BadInput: Traces cannot be made (codes `otlp_endpoint_invalid`, `otel_missing`).
        SystemExit: A worker died.
    """
    _check_certificate(settings)
    if settings.otlp_endpoint:
        tracing.check(settings.otlp_endpoint)
    _raise_file_limit()
    gc.disable()  # Until everything is imported: it saves a tenth of the start.
    held = _hold_port(settings.host, settings.port)
    with closing(held):
        port = held.getsockname()[1]
        counters = _share_metrics() if settings.workers > 1 else None
        ready = multiprocessing.Value("i", 0)
        address = _address(settings.host, port, settings.tls)
        parent = os.getpid()

        def load() -> Any:
            _die_with(parent)
            logs.configure(settings.log_level, as_json=settings.log_json)
            # Imported by the worker: prometheus_client must not be there before its folder is named.
            from sdx_hub.app import create_app

            ending = Ending()
            _begin_with_signals(asyncio.get_event_loop(), ending)
            app = create_app(settings, lambda: _announce(ready, settings, address, port), ending)
            gc.enable()
            gc.freeze()  # Modules live as long as the process: no collection need look at them again.
            return app

        server = Server(
            "sdx",
            address=settings.host,
            port=port,
            interface=Interfaces.ASGI,
            workers=settings.workers,
            # Together half again as many polls for a CPU-second as the defaults (docs/performance.md): uvloop, where it
            # is installed, and the server's own work on one thread, which hands each request over with fewer wake-ups.
            loop=Loops.auto,
            runtime_mode=RuntimeModes.st,
            workers_kill_timeout=GRACE_S,
            backlog=_BACKLOG,
            backpressure=_CONNECTIONS,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=_idle_s(settings) * 1000, max_buffer_size=_HEAD_BYTES),
            websockets=False,
            ssl_cert=Path(settings.tls_cert) if settings.tls else None,
            ssl_key=Path(settings.tls_key) if settings.tls else None,
            ssl_protocol_min=SSLProtocols.tls12,
            log_level=LogLevels.warning,
            log_dictconfig={"loggers": {"_granian": {"propagate": True}, "granian.access": {"propagate": True}}},
        )
        try:
            server.serve(target_loader=load, wrap_loader=False)
        finally:
            if counters is not None:
                shutil.rmtree(counters, ignore_errors=True)


def _check_certificate(settings: Settings) -> None:
    """Find out now whether the two files are there and belong together: a worker would only die."""
    if not settings.tls:
        return
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (OSError, ValueError) as error:
        raise UsageFault(
            f"The certificate {settings.tls_cert} and its key {settings.tls_key} cannot be used: {error}. Both are "
            "PEM files that this user can read, the key without a passphrase.",
            "certificate_unusable",
        ) from error


def _hold_port(host: str, port: int) -> socket.socket:
    """Find out that nobody listens there, and keep the number: workers share it with SO_REUSEPORT.

    Without this look, a second hub on the same port would get half of the first one's requests.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with closing(socket.socket(family)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        raise UsageFault(
            f"Cannot listen on {_address(host, port)}: {error.strerror}. Choose another --host or --port, or stop what "
            "uses it.",
            "address_unusable",
        ) from error
    return held


def _idle_s(settings: Settings) -> int:
    """How long a connection may wait for its next request: from one poll to the next, for craft keep theirs."""
    return min(settings.poll_interval_s + settings.poll_jitter_s + _SLACK_S, _MAX_IDLE_S)


def _raise_file_limit() -> None:
    """Each connection is an open file, and the usual limit of 1,024 is a shell's default, not a server's need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _address(host: str, port: int, tls: bool = False) -> str:
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _share_metrics() -> Path:
    """Have prometheus_client keep counters in files that all workers add up; before it is first imported there."""
    folder = Path(tempfile.mkdtemp(prefix="sdx-metrics-"))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return folder


def _die_with(parent: int) -> None:
    """End this worker when the main process is killed: nobody could stop a worker that was left alone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)


def _begin_with_signals(loop: asyncio.AbstractEventLoop, ending: Ending) -> None:
    """Have the end begin with the signal: the server waits for open answers, and tells nobody that it does."""
    register = loop.add_signal_handler

    def add(number: int, callback: Any, *arguments: Any) -> None:
        def both() -> None:
            ending.begin()
            callback(*arguments)

        register(number, both)

    loop.add_signal_handler = add  # type: ignore[assignment, method-assign]


def _announce(ready: Any, settings: Settings, address: str, port: int) -> None:
    """Say where the hub is, once every worker answers there."""

    async def wait_and_say() -> None:
        while not await _answers(settings.host, port):  # noqa: ASYNC110 - nothing tells us that the server listens
            await asyncio.sleep(_ANNOUNCE_EVERY_S)
        with ready.get_lock():
            ready.value += 1
            last = ready.value == settings.workers
        if last:
            print(f"The hub is ready: {address}", file=sys.stderr, flush=True)  # noqa: T201 - for the one who started it

    task = asyncio.create_task(wait_and_say(), name="announce")
    task.add_done_callback(_note_failure)


def _note_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("announce_failed", exc_info=task.exception())


async def _answers(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host if host not in {"0.0.0.0", "::"} else "localhost", port)  # noqa: S104
    except OSError:
        return False
    writer.close()
    return True

"""What surrounds every request but the poll: an id, a line in the log, a count and a time.

The path is logged as its template and counted as such: ids would make millions of series, and a query may hold what
nobody wants in a log. Headers are never logged.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from sdx_hub.api.series import REQUESTS, SECONDS
from sdx_hub.api.shedding import begins_stream

REQUEST_ID_HEADER = "sdx-request-id"
_REQUEST_ID_NAME = REQUEST_ID_HEADER.encode()
_NOSNIFF = (b"x-content-type-options", b"nosniff")
"""Payloads are other people's bytes: no browser may take them for a page."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
_NOT_ROUTED = "-"
_log = structlog.get_logger("sdx_hub.access")


class Edge:
    """The outermost layer of everything that Litestar answers.

    Args:
        app: Litestar.
    """

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        started = time.perf_counter()
        status, answered_s = 0, 0.0

        async def sending(message: Any) -> None:
            nonlocal status, answered_s
            if message["type"] == "http.response.start":
                status = message["status"]
                # A stream of events is answered when it begins; how long it is listened to is no time of ours.
                answered_s = time.perf_counter() - started if begins_stream(message) else 0.0
                message["headers"] = [*message.get("headers", ()), (_REQUEST_ID_NAME, request_id), _NOSNIFF]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id.decode()):
            try:
                await self._app(scope, receive, sending)
            finally:
                seconds = time.perf_counter() - started
                self._note(scope, status, seconds, answered_s or seconds)

    def _note(self, scope: Any, status: int, seconds: float, answered_s: float) -> None:
        path, method = scope.get("path_template") or _NOT_ROUTED, scope["method"]
        REQUESTS.labels(method, path, str(status)).inc()
        SECONDS.labels(method, path).observe(answered_s)
        if path in _QUIET:
            return
        user = scope.get("user")
        who = getattr(user, "name", None) or (str(user) if user else None)
        client = scope.get("client") or ("-",)
        _log.info(
            "request", method=method, path=path, status=status, ms=round(seconds * 1000, 1), who=who, ip=client[0]
        )


def _request_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    # A proxy may have given one; whatever else a client sends there stays out of the log.
    given = next((value for name, value in headers if name == _REQUEST_ID_NAME), b"")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8).encode()

"""A span for each request but the polls, where the hub makes traces."""

from collections.abc import Awaitable, Callable
from typing import Any

from sdx_hub.adapters.tracing import Tracing

_PROPAGATED = frozenset({b"traceparent", b"tracestate"})


class Traced:
    """Around everything that is not a poll: a million spans a minute would say nothing.

    Args:
        app: The rest.
        tracing: Makes the spans.
    """

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]], tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _PROPAGATED}
        with self._tracing.request(scope["method"], headers) as span:
            status = 500

            async def sending(message: Any) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self._app(scope, receive, sending)
            finally:
                span.ended(status, scope.get("path_template") or "")

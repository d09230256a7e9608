"""The `Idempotency-Key` header, for the routes that create something (`opt={"idempotent": True}`)."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.openapi.spec import Operation, Parameter, Reference, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from msgspec import Struct

from firmware_schemas.limits import MAX_API_BODY_BYTES
from sdx_hub.api.auth import bearer
from sdx_hub.api.hub import Hub
from sdx_hub.domain.errors import TooLarge
from sdx_hub.services.idempotency import MAX_KEY_CHARS

HEADER = "idempotency-key"
REPLAYED = (b"idempotency-replayed", b"true")
OPTION = {"idempotent": True}


@dataclass
class Idempotent(Operation):
    """Describes the header of such a route."""

    def __post_init__(self) -> None:
        text = Schema(type=OpenAPIType.STRING, min_length=1, max_length=MAX_KEY_CHARS)
        about = "A repeated request with the same key gets the first one's answer, and takes effect once."
        key: Parameter | Reference = Parameter(HEADER, "header", text, about)
        self.parameters = [*(self.parameters or []), key]


class _Answer(Struct):
    """An answer as it is kept."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


class Idempotency(ASGIMiddleware):
    """Gives the first answer again, after looking whether the token is still good."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        request: Request[Any, Any, Any] = Request(scope, receive)
        key = request.headers.get(HEADER)
        if key is None or not scope["route_handler"].opt.get("idempotent"):
            await next_app(scope, receive, send)
            return
        hub: Hub = request.app.state.hub
        token = bearer(request.headers.get("authorization"))
        await hub.people.authenticate(token)
        body = await _body(receive)
        asked = msgspec.json.encode([request.method, scope["path"], body])
        claim = await hub.idempotency.claim(token, key, asked)
        if claim.earlier is not None:
            await _replay(send, msgspec.json.decode(claim.earlier, type=_Answer))
            return
        kept = _Answer(0, [])

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept.status = message["status"]
                kept.headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            elif message["type"] == "http.response.body":
                kept.body += message.get("body", b"")
                if not message.get("more_body") and kept.status < 300:
                    # Kept before it is sent: once the client has it, a retry must find it.
                    await hub.idempotency.keep(claim, msgspec.json.encode(kept))
            await send(message)

        try:
            await next_app(scope, _again(body, receive), sending)
        except Exception:
            if not kept.status:  # Else it took effect, and only the keeping failed: never do it again.
                await hub.idempotency.release(claim)
            raise
        if kept.status >= 300:
            await hub.idempotency.release(claim)


async def _body(receive: Receive) -> bytes:
    collected = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(collected)
        collected += message.get("body", b"")
        if len(collected) > MAX_API_BODY_BYTES:
            raise TooLarge(f"The request has more than {MAX_API_BODY_BYTES} bytes.")
        if not message.get("more_body"):
            return bytes(collected)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more."""
    given = False

    async def receiving() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


async def _replay(send: Send, answer: _Answer) -> None:
    headers = [*answer.headers, REPLAYED]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})

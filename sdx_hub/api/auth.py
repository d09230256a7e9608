"""Who asks: a bearer token becomes a person or a device before anything of the request's body is read."""

from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX
from firmware_schemas.ids import DeviceId
from sdx_hub.api.hub import Hub
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import NotAuthenticated

Connection = ASGIConnection[Any, Any, Any, Any]
MAX_TOKEN_CHARS = 512


def bearer(authorization: str | None) -> str:
    """The token of an `Authorization` header.

    Raises:
        NotAuthenticated: There is none (code `token_missing`), or it is no token by its size (`token_unknown`).
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotAuthenticated("A token is needed: Authorization: Bearer sdx_...", "token_missing")
    if len(token) > MAX_TOKEN_CHARS:
        raise NotAuthenticated("This is no token of this hub.", "token_unknown")
    return token.strip()


async def person(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: a person's token is needed."""
    token = bearer(connection.headers.get("authorization"))
    connection.scope["user"] = await _hub(connection).people.authenticate(token)


async def device(connection: Connection, _: BaseRouteHandler) -> None:
    """Guard: an accepted device's token is needed."""
    token = bearer(connection.headers.get("authorization"))
    connection.scope["user"] = await _hub(connection).fleet.authenticate(token)


async def device_or_person(connection: Connection, handler: BaseRouteHandler) -> None:
    """Guard: either is needed; the prefix of the token says which one it claims to be."""
    token = bearer(connection.headers.get("authorization"))
    await (device if token.startswith(DEVICE_TOKEN_PREFIX) else person)(connection, handler)


def may(permission: Permission) -> Guard:
    """Guard, after `person`: the role must grant this, before the body is read. Services ask again for themselves."""

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        connection.user.require(permission)

    return guard


def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    principal: Principal = request.user
    return principal


def provide_device(request: Request[Any, Any, Any]) -> DeviceId:
    identity: DeviceId = request.user
    return identity


def _hub(connection: Connection) -> Hub:
    hub: Hub = connection.app.state.hub
    return hub

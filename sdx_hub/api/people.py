"""`/whoami` and `/tokens`: who a token belongs to, and making and revoking tokens."""

from datetime import datetime, timedelta
from typing import Annotated

from litestar import Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, RequestBody
from msgspec import Meta, Struct

from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.idempotency import OPTION, Idempotent
from sdx_hub.api.pages import Items
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import PERMISSIONS, Permission, Principal, Role
from sdx_hub.services.people import TokenInfo


class Person(Struct):
    """Whose token the request carried, and what it may do."""

    name: str
    role: Role
    permissions: list[Permission]


class TokenOrder(Struct, forbid_unknown_fields=True):
    """A token to make; it lives for `life_s` seconds."""

    name: str
    role: Role
    life_s: Annotated[int, Meta(ge=1, le=366 * 86400)] = 90 * 86400


class TokenMade(Struct):
    """The only answer that ever shows the token itself."""

    id: str
    token: str
    expires_at: datetime


@get("/whoami", summary="Whose token this is")
async def whoami(principal: NamedDependency[Principal]) -> Person:
    return Person(principal.name, principal.role, sorted(PERMISSIONS[principal.role]))


@get("/tokens", summary="List tokens, without their secrets", guards=[may(Permission.ADMINISTER)])
async def list_tokens(hub: NamedDependency[Hub], principal: NamedDependency[Principal]) -> Items[TokenInfo]:
    return Items(await hub.people.list_tokens(principal))


@post(
    "/tokens",
    summary="Make a token",
    guards=[may(Permission.ADMINISTER)],
    opt=OPTION,
    operation_class=Idempotent,
    responses=refuses(409),
)
async def new_token(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[TokenOrder]
) -> TokenMade:
    made = await hub.people.new_token(principal, data.name, data.role, timedelta(seconds=data.life_s))
    return TokenMade(made.id, made.token, made.expires_at)


@post("/tokens/{token_id:str}/revoke", status_code=204, summary="Revoke a token at once", responses=refuses(404))
async def revoke_token(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], token_id: FromPath[str]
) -> None:
    await hub.people.revoke(principal, token_id)


router = Router("/", route_handlers=[whoami, list_tokens, new_token, revoke_token], tags=["people"])

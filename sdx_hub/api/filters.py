"""`/filters`: queries under a name."""

from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, RequestBody
from msgspec import Meta, Struct

from sdx_hub.api import preconditions
from sdx_hub.api.devices import OPERATE, IfMatch
from sdx_hub.api.hub import Hub
from sdx_hub.api.pages import LINK, Cursor, Items, Limit, page
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import NotFound
from sdx_hub.domain.query.tokens import MAX_QUERY_CHARS
from sdx_hub.services.devices.saved_filters import FilterView


class FilterText(Struct, forbid_unknown_fields=True):
    """What the filter says."""

    query: Annotated[str, Meta(max_length=MAX_QUERY_CHARS)]


@get("/", summary="List saved filters, by name", response_headers=[LINK])
async def list_filters(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[FilterView]]:
    found = await hub.filters.list(principal, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@get("/{name:str}", summary="One saved filter", response_headers=[preconditions.ETAG], responses=refuses(404))
async def show(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], name: FromPath[str]
) -> Response[FilterView]:
    return _answer(await hub.filters.show(principal, name))


@put(
    "/{name:str}",
    summary="Save a filter",
    guards=OPERATE,
    response_headers=[preconditions.ETAG],
    responses=refuses(409, 412),
)
async def save(
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    name: FromPath[str],
    data: RequestBody[FilterText],
    if_match: IfMatch = None,
) -> Response[FilterView]:
    seen = await _seen(hub, principal, name, if_match)
    return _answer(await hub.filters.save(principal, name, data.query, expected=seen))


@delete("/{name:str}", status_code=204, summary="Delete a filter", guards=OPERATE, responses=refuses(404, 409, 412))
async def delete_filter(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], name: FromPath[str], if_match: IfMatch = None
) -> None:
    await hub.filters.delete(principal, name, expected=await _seen(hub, principal, name, if_match))


async def _seen(hub: Hub, principal: Principal, name: str, if_match: str | None) -> FilterView | None:
    """What the caller saw, where it says so: it must be what is there now."""
    if if_match is None:
        return None
    try:
        seen = await hub.filters.show(principal, name)
    except NotFound as error:
        raise preconditions.PreconditionFailed("There is no such filter any more.") from error
    preconditions.require_match(if_match, _document(seen))
    return seen


def _document(shown: FilterView) -> dict[str, str]:
    return {"name": shown.name, "query": shown.query}


def _answer(shown: FilterView) -> Response[FilterView]:
    headers = {"etag": preconditions.etag(_document(shown)), "cache-control": "no-cache"}
    return Response(shown, headers=headers)


router = Router("/filters", route_handlers=[list_filters, show, save, delete_filter], tags=["devices"])

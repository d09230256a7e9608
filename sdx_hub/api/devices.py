"""`/devices`: look at craft, name them, accept and revoke them."""

from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post, put
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter, RequestBody
from msgspec import Meta, Struct

from sdx_hub.api import preconditions
from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.pages import LINK, Cursor, Items, Limit, page
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.query.tokens import MAX_QUERY_CHARS
from sdx_hub.services.devices.device_views import DeviceView
from sdx_hub.services.devices.devices import STATES, DeviceFilter, SignedInventory, TimelineEvent
from sdx_hub.services.devices.previewing import Preview

OPERATE = [may(Permission.OPERATE_DEVICES)]
QueryText = Annotated[
    str | None,
    QueryParameter(name="query", max_length=MAX_QUERY_CHARS, description="For instance `tag = alpha and seen < 7d`."),
]
"""A parameter cannot be named `query` or `state` in Python: Litestar keeps those names for its own."""
DeviceState = Annotated[str | None, QueryParameter(name="state", schema_extra={"enum": sorted(STATES)})]
IfMatch = Annotated[str | None, HeaderParameter(name="if-match", description="Replace only what you saw.")]


def provide_filter(
    in_state: DeviceState = None,
    tag: FromQuery[str | None] = None,
    product: FromQuery[str | None] = None,
    version: FromQuery[str | None] = None,
    matching: QueryText = None,
) -> DeviceFilter:
    return DeviceFilter(in_state, tag, product, version, matching)


class PreviewOrder(Struct, forbid_unknown_fields=True):
    """A query, and a product whose versions are counted."""

    query: Annotated[str, Meta(max_length=MAX_QUERY_CHARS)]
    product: Annotated[str, Meta(max_length=64)] = ""


@get("/", summary="List devices, in the order in which they enrolled", response_headers=[LINK])
async def list_devices(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    wanted: NamedDependency[DeviceFilter],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[DeviceView]]:
    found = await hub.devices.list(principal, wanted, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@post("/preview", status_code=200, summary="Who a query matches: counts and a sample")
async def preview(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[PreviewOrder]
) -> Preview:
    return await hub.previews.preview(principal, data.query, data.product)


@get("/{device:str}", summary="One device, by id or serial", responses=refuses(404))
async def show(hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]) -> DeviceView:
    return await hub.devices.show(principal, device)


@get(
    "/{device:str}/timeline",
    summary="What happened to a device, newest first",
    response_headers=[LINK],
    responses=refuses(404),
)
async def timeline(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    device: FromPath[str],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[TimelineEvent]]:
    found = await hub.devices.timeline(principal, device, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@get("/{device:str}/inventory", summary="What runs on a device, as it signed it", responses=refuses(404))
async def inventory(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]
) -> SignedInventory:
    return await hub.devices.inventory(principal, device)


@post(
    "/{device:str}/rotate-token",
    status_code=200,
    summary="Ask a device for a new poll token",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def rotate_token(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]
) -> DeviceView:
    return await hub.devices.show(principal, await hub.rotation.ask(principal, device))


@post(
    "/{device:str}/accept",
    status_code=200,
    summary="Accept a pending device",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def accept(hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]) -> DeviceView:
    return await hub.devices.show(principal, await hub.enrolment.accept(principal, device))


@post(
    "/{device:str}/revoke",
    status_code=200,
    summary="Revoke a device for good",
    guards=OPERATE,
    responses=refuses(404),
)
async def revoke(hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]) -> DeviceView:
    return await hub.devices.show(principal, await hub.enrolment.revoke(principal, device))


@put("/{device:str}/tags/{tag:str}", summary="Tag a device", guards=OPERATE, responses=refuses(404, 409))
async def tag_device(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str], tag: FromPath[str]
) -> DeviceView:
    return await hub.devices.tag(principal, device, tag)


@delete(
    "/{device:str}/tags/{tag:str}",
    status_code=200,
    summary="Take a tag away",
    guards=OPERATE,
    responses=refuses(404),
)
async def untag_device(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str], tag: FromPath[str]
) -> DeviceView:
    return await hub.devices.untag(principal, device, tag)


@get(
    "/{device:str}/attributes",
    summary="A device's attributes",
    response_headers=[preconditions.ETAG],
    responses=refuses(404),
)
async def attributes(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]
) -> Response[dict[str, str]]:
    shown = (await hub.devices.show(principal, device)).attributes
    return Response(shown, headers={"etag": preconditions.etag(shown), "cache-control": "no-cache"})


@put(
    "/{device:str}/attributes",
    summary="Replace a device's attributes",
    guards=OPERATE,
    response_headers=[preconditions.ETAG],
    responses=refuses(404, 409, 412),
)
async def set_attributes(
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    device: FromPath[str],
    data: RequestBody[dict[str, str]],
    if_match: IfMatch = None,
) -> Response[DeviceView]:
    seen = (await hub.devices.show(principal, device)).attributes
    preconditions.require_match(if_match, seen)
    shown = await hub.devices.set_attributes(principal, device, data, expected=seen if if_match else None)
    return Response(shown, headers={"etag": preconditions.etag(shown.attributes)})


router = Router(
    "/devices",
    route_handlers=[
        list_devices,
        preview,
        show,
        timeline,
        inventory,
        accept,
        rotate_token,
        revoke,
        tag_device,
        untag_device,
        attributes,
        set_attributes,
    ],
    dependencies={"wanted": Provide(provide_filter, sync_to_thread=False)},
    tags=["devices"],
)

"""`/releases`: propose, look at, and take back releases."""

from typing import Annotated, Any

from litestar import Request, Response, Router, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter, RequestBody
from msgspec import Meta, Struct

from firmware_schemas.limits import MAX_MANIFEST_BYTES, MAX_TARGETS_BYTES, MAX_TEXT_CHARS
from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.pages import LINK, Cursor, Items, Limit, page
from sdx_hub.api.problems import refuses
from sdx_hub.api.trust import SIGNED_METADATA, unbase64
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.services.releases.release_views import ReleaseDetail, ReleaseView
from sdx_hub.services.releases.releases import STATES

MAX_BODY_BYTES = (MAX_MANIFEST_BYTES + MAX_TARGETS_BYTES) * 4 // 3 + 4096


ReleaseState = Annotated[str | None, QueryParameter(name="state", schema_extra={"enum": sorted(STATES)})]
"""A parameter cannot be named `state` in Python: Litestar keeps that name for its own."""


class ReleaseProposal(Struct, forbid_unknown_fields=True):
    """A manifest and the team's next metadata, each as base64 of its exact bytes."""

    manifest: Annotated[str, Meta(max_length=MAX_MANIFEST_BYTES * 4 // 3 + 4)]
    role: Annotated[str, Meta(max_length=80)]
    metadata: Annotated[str, Meta(max_length=MAX_TARGETS_BYTES * 4 // 3 + 4)]


class Yank(Struct, forbid_unknown_fields=True):
    """Why a release is taken back."""

    reason: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]


@get("/", summary="List releases, newest first", response_headers=[LINK])
async def list_releases(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    product: FromQuery[str | None] = None,
    in_state: ReleaseState = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[ReleaseView]]:
    found = await hub.releases.list(principal, product=product, state=in_state, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@get("/{release:str}", summary="One release, with its manifest", responses=refuses(404))
async def show(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], release: FromPath[str]
) -> ReleaseDetail:
    return await hub.releases.show(principal, release)


@put(
    "/{release:str}",
    summary="Propose a release, or add signatures to it",
    guards=[may(Permission.PUBLISH)],
    request_max_body_size=MAX_BODY_BYTES,
    responses=refuses(404, 409, 422),
)
async def propose(
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    release: FromPath[str],
    data: RequestBody[ReleaseProposal],
) -> ReleaseView:
    manifest, metadata = unbase64(data.manifest), unbase64(data.metadata)
    return await hub.releases.put(principal, release, manifest, data.role, metadata)


@get(
    "/{release:str}/proposal",
    summary="The metadata that waits for signatures",
    responses=SIGNED_METADATA | refuses(404),
)
async def proposal(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], release: FromPath[str]
) -> Response[bytes]:
    raw = await hub.releases.proposal(principal, release)
    return Response(raw, media_type="application/json", headers={"cache-control": "no-store"})


@post(
    "/{release:str}/yank",
    status_code=200,
    summary="Take a release back",
    guards=[may(Permission.APPROVE)],
    responses=refuses(404, 409),
)
async def yank(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], release: FromPath[str], data: RequestBody[Yank]
) -> ReleaseView:
    return await hub.releases.yank(principal, release, data.reason)


router = Router("/releases", route_handlers=[list_releases, show, propose, proposal, yank], tags=["releases"])

"""`/rollouts`: plan them, start them, look at them and command them."""

from typing import Annotated, Any

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, HeaderParameter, QueryParameter, RequestBody
from msgspec import Struct

from sdx_hub.api import preconditions
from sdx_hub.api.auth import may
from sdx_hub.api.devices import OPERATE
from sdx_hub.api.hub import Hub
from sdx_hub.api.idempotency import OPTION, Idempotent
from sdx_hub.api.pages import LINK, Cursor, Items, Limit, page
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.answers import Answer
from sdx_hub.domain.rollout.policy import Order, Reason
from sdx_hub.domain.rollout.states import ROLLOUT_STATES
from sdx_hub.services.rollouts.planning.plans import Plan
from sdx_hub.services.rollouts.showing.views import RolloutDetail, RolloutView

RolloutState = Annotated[str | None, QueryParameter(name="state", schema_extra={"enum": list(ROLLOUT_STATES)})]
"""A parameter cannot be named `state` in Python: Litestar keeps that name for its own."""
IfNoneMatch = Annotated[
    str | None, HeaderParameter(name="if-none-match", description="304 where it is still what you saw.")
]
Wave = Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1, description="Its number, from 1.")]
SHOWN = {304: ResponseSpec(None), **refuses(404)}


class Because(Struct, forbid_unknown_fields=True):
    """Why a person commands it."""

    reason: Reason = ""


@get("/", summary="List rollouts, newest first", response_headers=[LINK])
async def list_rollouts(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    product: FromQuery[str | None] = None,
    in_state: RolloutState = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[RolloutView]]:
    found = await hub.rollout_views.list(principal, state=in_state, product=product, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@post("/plan", status_code=200, summary="What a rollout would do; changes nothing", responses=refuses(404, 409))
async def plan(hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[Order]) -> Plan:
    return await hub.planning.plan(principal, data)


@post(
    "/",
    status_code=201,
    summary="Start a rollout",
    guards=OPERATE,
    opt=OPTION,
    operation_class=Idempotent,
    response_headers=[preconditions.ETAG],
    responses=refuses(404, 409),
)
async def start(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[Order]
) -> Response[RolloutDetail]:
    return await _answer(hub, principal, (await hub.rollouts.start(principal, data)).id)


@get(
    "/{rollout:str}",
    summary="One rollout: waves, gate, what it waits for",
    response_headers=[preconditions.ETAG],
    responses=SHOWN,
)
async def show(
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    rollout: FromPath[str],
    if_none_match: IfNoneMatch = None,
) -> Response[RolloutDetail]:
    return await _answer(hub, principal, rollout, if_none_match or "")


@post(
    "/{rollout:str}/approve",
    status_code=200,
    summary="Approve a rollout that somebody else ordered",
    guards=[may(Permission.APPROVE)],
    responses=refuses(404, 409),
)
async def approve(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Because]
) -> Response[RolloutDetail]:
    await hub.rollouts.approve(principal, rollout, data.reason)
    return await _answer(hub, principal, rollout)


@post(
    "/{rollout:str}/pause",
    status_code=200,
    summary="Offer nothing new; what is under way goes on",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def pause(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Because]
) -> Response[RolloutDetail]:
    await hub.rollouts.pause(principal, rollout, data.reason)
    return await _answer(hub, principal, rollout)


@post(
    "/{rollout:str}/resume",
    status_code=200,
    summary="Go on, and accept the failures so far; a halted one needs an approver",
    responses=refuses(404, 409),
)
async def resume(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Because]
) -> Response[RolloutDetail]:
    await hub.rollouts.resume(principal, rollout, data.reason)
    return await _answer(hub, principal, rollout)


@post(
    "/{rollout:str}/halt",
    status_code=200,
    summary="Stop, and take open offers back",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def halt(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Because]
) -> Response[RolloutDetail]:
    await hub.rollouts.halt(principal, rollout, data.reason)
    return await _answer(hub, principal, rollout)


@post(
    "/{rollout:str}/revert",
    status_code=200,
    summary="Bring every touched device back to what it had",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def revert(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Because]
) -> Response[RolloutDetail]:
    await hub.rollouts.revert(principal, rollout, data.reason)
    return await _answer(hub, principal, rollout)


@post(
    "/{rollout:str}/cancel",
    status_code=200,
    summary="End it: open offers are taken back, what is committed stays",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def cancel(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Because]
) -> Response[RolloutDetail]:
    await hub.rollouts.cancel(principal, rollout, data.reason)
    return await _answer(hub, principal, rollout)


@post(
    "/{rollout:str}/advance",
    status_code=200,
    summary="Close the open wave without waiting",
    guards=OPERATE,
    opt=OPTION,
    operation_class=Idempotent,
    responses=refuses(404, 409),
)
async def advance(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Because]
) -> Response[RolloutDetail]:
    await hub.rollouts.advance(principal, rollout, data.reason)
    return await _answer(hub, principal, rollout)


@get("/{rollout:str}/why", summary="Why it, a wave or a device of it is where it is", responses=refuses(404))
async def why(
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    rollout: FromPath[str],
    wave: Wave = None,
    device: FromQuery[str | None] = None,
) -> Answer:
    return await hub.explaining.why(principal, rollout, wave=wave, device=device)


async def _answer(hub: Hub, principal: Principal, rollout: str, seen: str = "") -> Response[Any]:
    """The rollout as it is now, or 304 where that is what the caller has."""
    known = [tag.strip().removeprefix("W/").strip('"') for tag in seen.split(",")]
    shown = await hub.rollout_views.show(principal, rollout, known)
    headers = {"etag": f'"{shown.version}"', "cache-control": "no-cache"}
    if shown.detail is None:
        return Response(None, status_code=304, headers=headers)
    return Response(shown.detail, headers=headers)


router = Router(
    "/rollouts",
    route_handlers=[list_rollouts, plan, start, show, approve, pause, resume, halt, revert, cancel, advance, why],
    tags=["rollouts"],
)

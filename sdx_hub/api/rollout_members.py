"""Devices of rollouts, and their outcomes: `/rollouts/{id}/devices`, its log, pins, and `/devices/{id}/rollouts`."""

from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter, RequestBody
from msgspec import Meta, Struct

from sdx_hub.api.devices import OPERATE
from sdx_hub.api.hub import Hub
from sdx_hub.api.pages import LINK, Cursor, Items, Limit, page
from sdx_hub.api.problems import refuses
from sdx_hub.api.rollouts import Wave
from sdx_hub.domain.access import Principal
from sdx_hub.domain.rollout.standing import DeviceRollouts, Member
from sdx_hub.domain.rollout.states import MEMBER_STATES
from sdx_hub.services.rollouts.showing.evidence import DecisionLine, OutcomeLine
from sdx_hub.services.rollouts.showing.views import RolloutDetail

MAX_NAMED = 1_000
MemberState = Annotated[str | None, QueryParameter(name="state", schema_extra={"enum": list(MEMBER_STATES)})]
Devices = Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(max_length=MAX_NAMED)]
WhyText = Annotated[str, Meta(min_length=1, max_length=2_000)]


class Retry(Struct, forbid_unknown_fields=True):
    """Devices by id or serial; None for all that failed."""

    devices: Devices | None = None


class Skip(Struct, forbid_unknown_fields=True):
    """Devices by id or serial, and why they are left out."""

    devices: Annotated[tuple[Annotated[str, Meta(max_length=128)], ...], Meta(min_length=1, max_length=MAX_NAMED)]
    reason: WhyText


class PinOrder(Struct, forbid_unknown_fields=True):
    """Why a device stays on what it runs."""

    reason: WhyText


@get("/rollouts/{rollout:str}/devices", summary="Devices of a rollout", response_headers=[LINK], responses=refuses(404))
async def list_members(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    rollout: FromPath[str],
    in_state: MemberState = None,
    wave: Wave = None,
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[Member]]:
    found = await hub.memberships.list(principal, rollout, state=in_state, wave=wave, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@get(
    "/rollouts/{rollout:str}/outcomes",
    summary="What became of its devices, oldest first",
    response_headers=[LINK],
    responses=refuses(404),
)
async def list_outcomes(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    rollout: FromPath[str],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[OutcomeLine]]:
    found = await hub.evidence.outcomes(principal, rollout, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@get(
    "/rollouts/{rollout:str}/decisions",
    summary="What was decided, by whom and on what, oldest first",
    response_headers=[LINK],
    responses=refuses(404),
)
async def list_decisions(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    rollout: FromPath[str],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[DecisionLine]]:
    found = await hub.evidence.decisions(principal, rollout, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


@post(
    "/rollouts/{rollout:str}/retry",
    status_code=200,
    summary="Offer it again to devices that failed",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def retry(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Retry]
) -> RolloutDetail | None:
    await hub.rollouts.retry(principal, rollout, data.devices)
    return (await hub.rollout_views.show(principal, rollout)).detail


@post(
    "/rollouts/{rollout:str}/skip",
    status_code=200,
    summary="Leave devices out",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def skip(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], rollout: FromPath[str], data: RequestBody[Skip]
) -> RolloutDetail | None:
    await hub.rollouts.skip(principal, rollout, data.devices, data.reason)
    return (await hub.rollout_views.show(principal, rollout)).detail


@get("/devices/{device:str}/rollouts", summary="A device's places in rollouts, and its pin", responses=refuses(404))
async def of_device(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]
) -> DeviceRollouts:
    return await hub.memberships.of_device(principal, device)


@put(
    "/devices/{device:str}/pin",
    summary="Keep a device on what it runs, whatever rolls out",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def pin(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str], data: RequestBody[PinOrder]
) -> DeviceRollouts:
    await hub.pins.pin(principal, device, data.reason)
    return await hub.memberships.of_device(principal, device)


@delete(
    "/devices/{device:str}/pin",
    status_code=200,
    summary="Let rollouts have a device again",
    guards=OPERATE,
    responses=refuses(404, 409),
)
async def unpin(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], device: FromPath[str]
) -> DeviceRollouts:
    await hub.pins.unpin(principal, device)
    return await hub.memberships.of_device(principal, device)


router = Router(
    "/",
    route_handlers=[list_members, list_outcomes, list_decisions, retry, skip, of_device, pin, unpin],
    tags=["rollouts"],
)

"""`/webhooks`: addresses outside that are told of events; for admins."""

from typing import Annotated, Any

from litestar import Request, Response, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, RequestBody
from msgspec import Meta, Struct

from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.idempotency import OPTION, Idempotent
from sdx_hub.api.pages import LINK, Cursor, Items, Limit, page
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.event_types import MAX_PATTERN_CHARS, MAX_PATTERNS
from sdx_hub.services.webhooks.addresses import MAX_URL_CHARS
from sdx_hub.services.webhooks.webhooks import DeliveryView, NewWebhook, WebhookView

Pattern = Annotated[str, Meta(max_length=MAX_PATTERN_CHARS)]


class WebhookOrder(Struct, forbid_unknown_fields=True):
    """Where to send, and types such as `rollout.halted` or `rollout.*`; none for all."""

    url: Annotated[str, Meta(max_length=MAX_URL_CHARS)]
    types: Annotated[list[Pattern], Meta(max_length=MAX_PATTERNS)] = []


@get("/", summary="List webhooks, without their secrets")
async def list_webhooks(hub: NamedDependency[Hub], principal: NamedDependency[Principal]) -> Items[WebhookView]:
    return Items(await hub.webhooks.list(principal))


@post(
    "/",
    summary="Make a webhook; its secret is in no other answer",
    opt=OPTION,
    operation_class=Idempotent,
    responses=refuses(409),
)
async def new_webhook(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[WebhookOrder]
) -> NewWebhook:
    return await hub.webhooks.create(principal, data.url, data.types)


@get("/{webhook:str}", summary="One webhook", responses=refuses(404))
async def show(hub: NamedDependency[Hub], principal: NamedDependency[Principal], webhook: FromPath[str]) -> WebhookView:
    return await hub.webhooks.show(principal, webhook)


@delete("/{webhook:str}", status_code=204, summary="Delete a webhook", responses=refuses(404))
async def delete_webhook(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], webhook: FromPath[str]
) -> None:
    await hub.webhooks.delete(principal, webhook)


@post("/{webhook:str}/test", status_code=202, summary="Send it a test event", responses=refuses(404, 409))
async def test(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], webhook: FromPath[str]
) -> DeliveryView:
    return await hub.webhooks.test(principal, webhook)


@post("/{webhook:str}/enable", status_code=200, summary="Enable a webhook again", responses=refuses(404))
async def enable(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], webhook: FromPath[str]
) -> WebhookView:
    return await hub.webhooks.enable(principal, webhook)


@get(
    "/{webhook:str}/deliveries",
    summary="What is and was on its way to a webhook, newest first",
    response_headers=[LINK],
    responses=refuses(404),
)
async def deliveries(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    webhook: FromPath[str],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[DeliveryView]]:
    found = await hub.webhooks.deliveries(principal, webhook, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


router = Router(
    "/webhooks",
    route_handlers=[list_webhooks, new_webhook, show, delete_webhook, test, enable, deliveries],
    guards=[may(Permission.ADMINISTER)],
    tags=["webhooks"],
)

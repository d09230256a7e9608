"""`/audit`: who changed what, with the chain of hashes that proves it."""

from typing import Any

from litestar import Request, Response, Router, get
from litestar.di import NamedDependency

from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.pages import LINK, Cursor, Items, Limit, page
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.services.audit_log import AuditLine


@get("/audit", summary="The audit log, newest first", response_headers=[LINK])
async def list_entries(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    cursor: Cursor = None,
    limit: Limit = 100,
) -> Response[Items[AuditLine]]:
    found = await hub.audit.list(principal, cursor=cursor, limit=limit)
    return page(request, found.items, found.following)


router = Router("/", route_handlers=[list_entries], guards=[may(Permission.ADMINISTER)], tags=["audit"])

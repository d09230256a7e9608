"""`/assignments`: say which release devices should run."""

from typing import Annotated

from litestar import Router, post
from litestar.di import NamedDependency
from litestar.params import RequestBody
from msgspec import Meta, Struct

from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.idempotency import OPTION, Idempotent
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.query.tokens import MAX_QUERY_CHARS
from sdx_hub.services.devices.assigning import MAX_DEVICES_PER_REQUEST, Assigned


class AssignmentOrder(Struct, forbid_unknown_fields=True):
    """A release, and either devices (ids or serials), a tag or a query."""

    release: Annotated[str, Meta(max_length=129)]
    devices: Annotated[list[str], Meta(max_length=MAX_DEVICES_PER_REQUEST)] | None = None
    tag: Annotated[str, Meta(max_length=64)] | None = None
    query: Annotated[str, Meta(max_length=MAX_QUERY_CHARS)] | None = None


@post(
    "/assignments",
    status_code=200,
    summary="Assign a release",
    opt=OPTION,
    operation_class=Idempotent,
    responses=refuses(404, 409),
)
async def assign(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[AssignmentOrder]
) -> Assigned:
    return await hub.assigning.assign(principal, data.release, data.devices, data.tag, data.query)


router = Router("/", route_handlers=[assign], guards=[may(Permission.OPERATE_DEVICES)], tags=["devices"])

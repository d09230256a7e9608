"""`/device/v1/reports`: what devices say, signed."""

from litestar import Router, post
from litestar.di import NamedDependency
from litestar.params import RequestBody

from firmware_schemas.device_api import ReportAnswer, ReportBatch
from firmware_schemas.ids import DeviceId
from firmware_schemas.limits import MAX_REPORT_BODY_BYTES
from sdx_hub.api.auth import device
from sdx_hub.api.hub import Hub
from sdx_hub.api.problems import refuses


@post(
    "/reports",
    status_code=200,
    summary="Send signed reports",
    request_max_body_size=MAX_REPORT_BODY_BYTES,
    responses=refuses(404),
)
async def receive(
    hub: NamedDependency[Hub], device_id: NamedDependency[DeviceId], data: RequestBody[ReportBatch]
) -> ReportAnswer:
    return await hub.reports.receive(device_id, data)


router = Router("/device/v1", route_handlers=[receive], guards=[device], tags=["device protocol"])

"""The poll in the OpenAPI document. `PollPath` answers it, in front of the framework, which so never sees one."""

from typing import Annotated

from litestar import get
from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter

from firmware_schemas.device_api import INTERVAL_HEADER, PollAnswer
from sdx_hub.api.poll import PATH
from sdx_hub.domain.errors import Unavailable

_HEADERS = [
    ResponseHeader("etag", description="The desired version, quoted.", documentation_only=True),
    ResponseHeader(INTERVAL_HEADER, description="Seconds to the next poll, before jitter.", documentation_only=True),
]
Known = Annotated[str | None, HeaderParameter(name="if-none-match", description="The ETag of the last answer.")]


@get(
    PATH,
    summary="Poll: what changed, or 304",
    tags=["device protocol"],
    security=[{"device": []}],
    response_headers=_HEADERS,
    responses={304: ResponseSpec(None)},
)
async def poll(known: Known = None) -> PollAnswer:
    raise Unavailable("The hub is still starting.", "starting")

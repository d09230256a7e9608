"""`/tuf/...`: both repositories as TUF clients read them; the image repository is for anybody.

A file with a version in its name never changes. A timestamp always may: it is asked for again each time.
"""

from pathlib import PurePath
from typing import Any

from litestar import Request, Response, Router, get, route
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.types import ASGIApp

from firmware_schemas.ids import DeviceId
from sdx_hub.api.auth import device
from sdx_hub.api.blobs import PAYLOAD, READ, Download, serve
from sdx_hub.api.hub import Hub
from sdx_hub.api.problems import refuses
from sdx_hub.api.trust import SIGNED_METADATA
from sdx_hub.domain.errors import NotAllowed

_JSON = "application/json"


def metadata_file(name: str, raw: bytes, cache: str) -> Response[bytes]:
    """Answer a metadata file; `cache` says who may keep one with a version."""
    never_changes = name.partition(".")[0].isdigit()
    control = f"{cache}, max-age=86400, immutable" if never_changes else "no-cache"
    return Response(raw, media_type=_JSON, headers={"cache-control": control})


@get(
    "/metadata/{name:str}",
    summary="A metadata file of the image repository",
    responses=SIGNED_METADATA | refuses(404),
)
async def image_metadata(hub: NamedDependency[Hub], name: FromPath[str]) -> Response[bytes]:
    return metadata_file(name, await hub.image.file(name), "public")


@route(
    "/targets/{target:path}",
    http_method=READ,
    summary="A target of the image repository",
    operation_class=Download,
    responses=PAYLOAD,
)
async def target_file(
    request: Request[Any, Any, Any], hub: NamedDependency[Hub], target: FromPath[PurePath]
) -> ASGIApp:
    return await serve(request, hub.blobs, await hub.targets.digest(str(target)), "public")


@get(
    "/{name_of_device:str}/metadata/{name:str}",
    summary="A metadata file of a device's director repository",
    responses=SIGNED_METADATA | refuses(404),
)
async def director_metadata(
    hub: NamedDependency[Hub],
    device_id: NamedDependency[DeviceId],
    name_of_device: FromPath[str],
    name: FromPath[str],
) -> Response[bytes]:
    if name_of_device != device_id:
        raise NotAllowed("These instructions are for another device.", "wrong_device")
    return metadata_file(name, await hub.director.file(device_id, name), "private")


image_router = Router("/tuf/image", route_handlers=[image_metadata, target_file], tags=["TUF"])
director_router = Router("/tuf/director", route_handlers=[director_metadata], guards=[device], tags=["TUF"])

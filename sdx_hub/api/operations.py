"""`/livez`, `/readyz`, `/metrics`: for those who run the hub, and for what watches it."""

from litestar import MediaType, Response, Router, get
from litestar.di import NamedDependency

from sdx_hub.api.hub import Hub
from sdx_hub.api.problems import text
from sdx_hub.services.health import Ready


@get("/livez", summary="The process answers", media_type=MediaType.TEXT)
async def livez() -> Response[str]:
    return text("ok")


@get("/readyz", summary="The hub can do its work; names what will expire", cache_control=None)
async def readyz(hub: NamedDependency[Hub]) -> Response[Ready]:
    return Response(await hub.health.ready(), headers={"cache-control": "no-store"})


@get("/metrics", summary="Figures in Prometheus' format", media_type=MediaType.TEXT)
async def metrics(hub: NamedDependency[Hub]) -> Response[str]:
    body, media_type = await hub.metrics.render()
    return Response(body, media_type=media_type)


router = Router("/", route_handlers=[livez, readyz, metrics], tags=["operations"])

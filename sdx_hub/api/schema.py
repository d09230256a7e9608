"""OpenAPI 3.1 at `/schema`, with a UI whose every byte comes from this hub.

Swagger UI would ask validator.swagger.io for a badge and a CDN for its scripts. The scripts are served from here, and
a content security policy makes the browser refuse whatever else a later version might want to fetch.
"""

from collections.abc import Sequence
from pathlib import Path

import litestar_offline_docs
from litestar import Response, Router
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.static_files import create_static_files_router

from sdx_hub.api.description import Described

PATH = "/schema"
ASSETS = "/schema-assets"
_ABOUT = (
    "Signed software for fleets of unmanned craft. Every error is a problem (RFC 9457) with a `code`; every answer but "
    "a poll's carries `sdx-request-id`, by which the hub's log names it."
)
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def _restrict(response: Response[object]) -> Response[object]:
    response.headers["content-security-policy"] = _POLICY
    return response


def openapi(version: str) -> Described:
    ui = SwaggerRenderPlugin(
        js_url=f"{ASSETS}/swagger-ui-bundle.js",
        css_url=f"{ASSETS}/swagger-ui.css",
        standalone_preset_js_url=f"{ASSETS}/swagger-ui-standalone-preset.js",
        favicon='<link rel="icon" href="data:,">',
        path="/",
    )
    return Described(
        title="sdx hub",
        version=version,
        description=_ABOUT,
        openapi_router=Router(PATH, route_handlers=[], after_request=_restrict, include_in_schema=False),
        render_plugins=[ui],
        components=Components(
            security_schemes={
                "person": SecurityScheme(type="http", scheme="bearer", description="sdx_...: a person or a CI job"),
                "device": SecurityScheme(type="http", scheme="bearer", description="sdxd_...: a device"),
            }
        ),
    )


def assets() -> Router:
    """The scripts and styles of the UI."""
    folder = Path(litestar_offline_docs.__file__).parent / "static"
    names: Sequence[str | Path] = [folder]
    return create_static_files_router(ASSETS, list(names), name="schema-assets")

"""`OPTIONS` names every method of a path: the framework forgets those that were registered after the first."""

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.routes import HTTPRoute
from litestar.types import Message, Scope


async def name_all(message: Message, scope: Scope) -> None:
    """For `before_send`: put the methods that the path has into the answer."""
    if scope["type"] != ScopeType.HTTP or scope["method"] != "OPTIONS" or message["type"] != "http.response.start":
        return
    for route in scope["litestar_app"].routes:
        if isinstance(route, HTTPRoute) and route.path_format == scope.get("path_template"):
            MutableScopeHeaders.from_message(message)["allow"] = ", ".join(sorted(route.methods))

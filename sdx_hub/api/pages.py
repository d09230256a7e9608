"""Lists in pages: `{"items": [...]}`, and `Link: <...>; rel="next"` while there is more."""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode

from litestar import Request, Response
from litestar.datastructures import ResponseHeader
from litestar.params import QueryParameter
from msgspec import Struct

T = TypeVar("T")

MAX_PAGE = 500
Cursor = Annotated[str | None, QueryParameter(max_length=512, description="From the Link header of the page before.")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE, description="Items on a page, at the most.")]


LINK = ResponseHeader(
    "link", description='The next page, while there is one: `<...>; rel="next"`.', documentation_only=True
)
"""For a list's `response_headers`."""


class Items(Struct, Generic[T]):
    """One page."""

    items: Sequence[T]


def page(request: Request[Any, Any, Any], items: Sequence[T], following: str | None) -> Response[Items[T]]:
    """Answer a page.

    Args:
        request: Its query is kept in the link to the next page.
        items: Of this page.
        following: Cursor of the next page, or None on the last.
    """
    headers = {}
    if following:
        query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
        headers["link"] = f'<{request.url.path}?{urlencode([*query, ("cursor", following)])}>; rel="next"'
    return Response(Items(items), headers=headers)

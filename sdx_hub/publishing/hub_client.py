"""The hub's HTTP API as seen by people and CI: one request, one answer, one error tree.

The token goes into a header of requests to the hub's own origin and nowhere else: redirects are not followed.
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from sdx_hub.domain.errors import (
    BadInput,
    ConflictError,
    HubError,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    TooLarge,
    TrustError,
    Unavailable,
)

_TIMEOUT = httpx.Timeout(connect=10, read=120, write=120, pool=10)
MAX_ANSWER_BYTES = 32 * 1024**2
_PROBLEMS: dict[int, type[HubError]] = {
    400: BadInput,
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: ConflictError,
    412: ConflictError,
    413: TooLarge,
    422: TrustError,
    429: Unavailable,
    503: Unavailable,
}
_STANDARD_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "instance"})


def segment(text: str) -> str:
    """One segment of a URL path."""
    return quote(text, safe="@")


class HubClient:
    """A connection to one hub.

    Args:
        url: The hub's address, without a path.
        token: A person's token, or empty for what anyone may read.
        transport: For tests.
    """

    def __init__(self, url: str, token: str = "", transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=_TIMEOUT, transport=transport, follow_redirects=False
        )

    def __repr__(self) -> str:
        return f"HubClient({self.url!r}, token=***)"

    def __enter__(self) -> "HubClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request.

        Raises:
            Unavailable: The hub cannot be reached (code `hub_unreachable`), or says so itself.
            HubError: The class of the problem's status, with the hub's own code and sentence.
        """
        try:
            with self._http.stream(method, path, **options) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        raise TrustError(f"The hub's answer to {path} does not end.", "answer_too_large")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except httpx.InvalidURL as error:
            raise BadInput(f"{self.url!r} is no address of a hub: {error}.", "hub_address") from error
        whole = httpx.Response(
            response.status_code, headers=_plain(response.headers), content=bytes(content), request=response.request
        )
        if whole.status_code >= 300:
            raise problem(whole)
        return whole

    def stream(self, path: str) -> Iterator[bytes]:
        """The decoded bytes of a resource, in pieces; the caller bounds how many it takes.

        Raises:
            Unavailable, HubError: As for `request`.
        """
        try:
            with self._http.stream("GET", path) as response:
                if response.status_code >= 300:
                    response.read()
                    raise problem(response)
                yield from response.iter_bytes()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def get(self, path: str, **parameters: Any) -> Any:
        """JSON of a resource below /api/v1."""
        given = {name: value for name, value in parameters.items() if value not in (None, "")}
        return _json(self.request("GET", f"/api/v1{path}", params=given))

    def pages(self, path: str, **parameters: Any) -> Iterator[Any]:
        """Every item of a list, following `Link: <...>; rel="next"`."""
        given = {name: value for name, value in parameters.items() if value not in (None, "")}
        response = self.request("GET", f"/api/v1{path}", params=given)
        while True:
            yield from items(_json(response))
            following = response.links.get("next", {}).get("url")
            if not following:
                return
            target = httpx.URL(self.url).join(following)
            if target.netloc != httpx.URL(self.url).netloc:
                raise TrustError("The hub's next page is on another host: refused.", "redirect_refused")
            response = self.request("GET", target.raw_path.decode())

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Change something below /api/v1; the JSON of the answer, or None."""
        if body is not None:
            options["json"] = body
        return _json(self.request(method, f"/api/v1{path}", **options))

    def raw(self, path: str) -> bytes:
        """The bytes of a resource, wherever it is."""
        return self.request("GET", path).content

    def _unreachable(self, error: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"Cannot reach the hub at {self.url} ({type(error).__name__}: {error}). Check the address and the "
            "network; nothing was lost, the same command can be run again.",
            "hub_unreachable",
        )


def items(document: Any) -> list[Any]:
    """The items of a page: a bare list, or the only list of an object."""
    if isinstance(document, list):
        return document
    if isinstance(document, dict):
        lists = [value for key, value in document.items() if isinstance(value, list)]
        if len(lists) == 1:
            return lists[0]
    raise TrustError("The hub's answer is not a list: is this address a hub's?", "answer_invalid")


def problem(response: httpx.Response) -> HubError:
    """The error that a response stands for."""
    kind = _PROBLEMS.get(response.status_code, HubError)
    try:
        members = response.json()
    except ValueError:
        members = {}
    if not isinstance(members, dict):
        members = {}
    code = members.get("code") if isinstance(members.get("code"), str) else ""
    detail = members.get("detail") if isinstance(members.get("detail"), str) else ""
    extra = {key: value for key, value in members.items() if key not in _STANDARD_MEMBERS and key.isidentifier()}
    extra.pop("message", None)
    return kind(
        detail or f"The hub answered {response.status_code} to {response.request.url.path}.",
        code or ("" if kind is not HubError else f"http_{response.status_code}"),
        **extra,
    )


def _plain(headers: httpx.Headers) -> list[tuple[str, str]]:
    # The content is decoded and whole: these would describe what it no longer is.
    return [item for item in headers.multi_items() if item[0].lower() not in {"content-encoding", "transfer-encoding"}]


def _json(response: httpx.Response) -> Any:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise TrustError("The hub's answer is not JSON: is this address a hub's?", "answer_invalid") from error

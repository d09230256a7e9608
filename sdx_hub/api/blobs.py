"""`/blobs/{sha256}`: immutable payloads for devices and people, resumable, compressed on the way where both can."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from litestar import Request, Router, route
from litestar.di import NamedDependency
from litestar.enums import HttpMethod
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, Parameter, Reference, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath
from litestar.types import ASGIApp, HTTPResponseStartEvent, Receive, Scope, Send

from sdx_hub.adapters.blobs import BlobReader, Encoding
from sdx_hub.api import problems
from sdx_hub.api.auth import device_or_person
from sdx_hub.api.hub import Hub
from sdx_hub.api.ranges import accepts, etag_of, select
from sdx_hub.domain.errors import NotFound

READ = [HttpMethod.GET, HttpMethod.HEAD]
_BYTES = "application/octet-stream"
PAYLOAD = {
    200: ResponseSpec(bytes, generate_examples=False, media_type=_BYTES),
    206: ResponseSpec(bytes, generate_examples=False, media_type=_BYTES),
    304: ResponseSpec(None),
    **problems.refuses(404, 416),
}
"""For the `responses` of a handler that answers with `serve`."""


@dataclass
class Download(Operation):
    """Describes the headers that `serve` looks at."""

    def __post_init__(self) -> None:
        for name in ("accept-encoding", "range", "if-range", "if-none-match"):
            header: Parameter | Reference = Parameter(name, "header", Schema(type=OpenAPIType.STRING))
            self.parameters = [*(self.parameters or []), header]


class Answer:
    """Status and headers, then the body in pieces as the client takes them.

    Litestar's own `Stream` listens for a disconnect in a task group beside the body, which costs as much again.
    """

    def __init__(self, status: int, headers: dict[str, str], body: AsyncGenerator[bytes, None] | bytes = b"") -> None:
        self._status = status
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: HTTPResponseStartEvent = {
            "type": "http.response.start",
            "status": self._status,
            "headers": self._headers,
        }
        if isinstance(self._body, bytes):
            await send(start)
            await send({"type": "http.response.body", "body": self._body, "more_body": False})
            return
        # Closed here: a client that goes away must not leave a file open until somebody collects the generator.
        async with aclosing(self._body) as pieces:
            # The first piece before the status: a store that is away is a 503, and later only a broken connection.
            piece = await anext(pieces, b"")
            await send(start)
            while piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await anext(pieces, b"")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def serve(request: Request[Any, Any, Any], blobs: BlobReader, sha256: str, cache: str) -> ASGIApp:
    """Answer a GET or HEAD of one blob.

    Args:
        request: Its conditions and ranges decide.
        blobs: Where the bytes are.
        sha256: 64 hexadecimal digits.
        cache: Who may keep it: `public` or `private`; it never changes.

    Raises:
        NotFound: It is not here (code `blob_not_found`).
    """
    encoding, size = await _representation(request, blobs, sha256)
    etag, reading = etag_of(sha256, encoding), request.method == "GET"
    chosen = select(
        size,
        etag,
        if_none_match=request.headers.get("if-none-match", ""),
        range_=request.headers.get("range", "") if reading else "",
        if_range=request.headers.get("if-range", ""),
    )
    headers = {
        "etag": etag,
        "vary": "accept-encoding",
        "accept-ranges": "bytes",
        "cache-control": f"{cache}, max-age=31536000, immutable",
    }
    if chosen.status == 304:
        return Answer(304, headers)
    if chosen.status == 416:
        detail = f"The payload has {size} bytes in this encoding: begin again from the first."
        problem = problems.encoded(416, "range_not_satisfiable", detail)
        headers |= {"content-range": f"bytes */{size}", "cache-control": "no-store"}
        return Answer(416, headers | _content(problems.MEDIA_TYPE, len(problem)), problem)
    if encoding != "identity":
        headers["content-encoding"] = encoding
    if chosen.status == 206:
        headers["content-range"] = f"bytes {chosen.start}-{chosen.start + chosen.length - 1}/{size}"
    headers |= _content(_BYTES, chosen.length)
    body = blobs.read(sha256, encoding, chosen.start, chosen.length) if reading else b""
    return Answer(chosen.status, headers, body)


def check_digest(text: str) -> str:
    """Return `text` if it can name a blob: anything else would reach into the store's own names.

    Raises:
        NotFound: It cannot (code `blob_not_found`).
    """
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise NotFound("A blob is named by the 64 hexadecimal digits of its SHA-256.", "blob_not_found")
    return text


async def _representation(request: Request[Any, Any, Any], blobs: BlobReader, sha256: str) -> tuple[Encoding, int]:
    if accepts(request.headers.get("accept-encoding", ""), "zstd"):
        packed = await blobs.stat(sha256, "zstd")
        if packed is not None:
            return "zstd", packed
    size = await blobs.stat(sha256, "identity")
    if size is None:
        raise NotFound(f"There is no blob {sha256[:12]}... here.", "blob_not_found")
    return "identity", size


def _content(media_type: str, length: int) -> dict[str, str]:
    return {"content-type": media_type, "content-length": str(length)}


@route(
    "/{sha256:str}",
    http_method=READ,
    summary="Download a payload, whole or in part",
    operation_class=Download,
    responses=PAYLOAD,
    security=[{"device": []}, {"person": []}],
)
async def download(request: Request[Any, Any, Any], hub: NamedDependency[Hub], sha256: FromPath[str]) -> ASGIApp:
    return await serve(request, hub.blobs, check_digest(sha256), "private")


router = Router("/blobs", route_handlers=[download], guards=[device_or_person], tags=["blobs"])

"""`/uploads`: payloads on their way in, resumable at any byte that was acknowledged."""

from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Request, Response, Router, get, head, patch, post
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIMediaType, Operation, Schema
from litestar.openapi.spec import RequestBody as Body
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath, HeaderParameter, RequestBody
from msgspec import Meta, Struct

from firmware_schemas.ids import Sha256Field
from firmware_schemas.limits import MAX_PAYLOAD_BYTES, MAX_UPLOAD_CHUNK_BYTES
from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.services.releases.uploads import Appended

OFFSET_HEADER = "upload-offset"
Offset = Annotated[int, HeaderParameter(name=OFFSET_HEADER, ge=0, description="Byte that the piece begins at.")]
_Length = Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)]


_OFFSET = ResponseHeader(OFFSET_HEADER, description="Bytes that the hub has.", documentation_only=True)


@dataclass
class _Piece(Operation):
    """Describes a body that the handler reads as a stream."""

    def __post_init__(self) -> None:
        piece = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, content_media_type="application/octet-stream"))
        self.request_body = Body({"application/octet-stream": piece}, required=True)


class UploadOrder(Struct, forbid_unknown_fields=True):
    """A payload to bring: its digest once decoded, and how many encoded bytes will come."""

    sha256: Sha256Field
    length: _Length
    decoded_length: _Length
    encoding: str = "identity"


class UploadBegun(Struct, omit_defaults=True):
    """`exists` alone where the hub has the payload; else the upload and the offset to go on from."""

    exists: bool = False
    id: str | None = None
    offset: int | None = None


@post("/", status_code=200, summary="Begin or resume an upload", responses=refuses(409, 422))
async def begin(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[UploadOrder]
) -> UploadBegun:
    begun = await hub.uploads.begin(principal, data.sha256, data.length, data.encoding, data.decoded_length)
    return UploadBegun(exists=True) if begun.exists else UploadBegun(id=begun.id, offset=begun.offset)


@patch(
    "/{upload_id:str}",
    summary="Append a piece",
    request_max_body_size=MAX_UPLOAD_CHUNK_BYTES,
    operation_class=_Piece,
    response_headers=[_OFFSET],
    responses=refuses(404, 409, 422),
)
async def append(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    upload_id: FromPath[str],
    offset: Offset,
) -> Response[Appended]:
    done = await hub.uploads.append(principal, upload_id, offset, request.stream())
    return Response(done, headers={OFFSET_HEADER: str(done.offset)})


@get("/{upload_id:str}", summary="How far an upload is", response_headers=[_OFFSET], responses=refuses(404))
async def status(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], upload_id: FromPath[str]
) -> Response[Appended]:
    done = await hub.uploads.status(principal, upload_id)
    return Response(done, headers={OFFSET_HEADER: str(done.offset), "cache-control": "no-store"})


@head(
    "/{upload_id:str}",
    summary="How far an upload is, without a body",
    response_headers=[_OFFSET],
    responses=refuses(404),
)
async def look(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], upload_id: FromPath[str]
) -> Response[None]:
    done = await hub.uploads.status(principal, upload_id)
    return Response(None, headers={OFFSET_HEADER: str(done.offset), "cache-control": "no-store"})


router = Router(
    "/uploads", route_handlers=[begin, append, status, look], guards=[may(Permission.PUBLISH)], tags=["uploads"]
)

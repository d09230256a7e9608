"""`/uploads`: payloads on their way in, resumable at any byte that was acknowledged."""

from typing import Annotated, Any

from litestar import Request, Response, Router, get, head, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, RequestBody
from msgspec import Meta, Struct

from firmware_schemas.ids import Sha256Field
from firmware_schemas.limits import MAX_PAYLOAD_BYTES, MAX_UPLOAD_CHUNK_BYTES
from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.services.releases.uploads import Appended

OFFSET_HEADER = "upload-offset"
Offset = Annotated[int, HeaderParameter(name=OFFSET_HEADER, ge=0, description="Byte that the piece begins at.")]
_Length = Annotated[int, Meta(ge=0, le=MAX_PAYLOAD_BYTES)]


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


@post("/", status_code=200, summary="Begin or resume an upload")
async def begin(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[UploadOrder]
) -> UploadBegun:
    begun = await hub.uploads.begin(principal, data.sha256, data.length, data.encoding, data.decoded_length)
    return UploadBegun(exists=True) if begun.exists else UploadBegun(id=begun.id, offset=begun.offset)


@patch("/{upload_id:str}", summary="Append a piece", request_max_body_size=MAX_UPLOAD_CHUNK_BYTES)
async def append(
    request: Request[Any, Any, Any],
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    upload_id: FromPath[str],
    offset: Offset,
) -> Response[Appended]:
    done = await hub.uploads.append(principal, upload_id, offset, request.stream())
    return Response(done, headers={OFFSET_HEADER: str(done.offset)})


@get("/{upload_id:str}", summary="How far an upload is")
async def status(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], upload_id: FromPath[str]
) -> Response[Appended]:
    done = await hub.uploads.status(principal, upload_id)
    return Response(done, headers={OFFSET_HEADER: str(done.offset), "cache-control": "no-store"})


@head("/{upload_id:str}", summary="How far an upload is, without a body")
async def look(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], upload_id: FromPath[str]
) -> Response[None]:
    done = await hub.uploads.status(principal, upload_id)
    return Response(None, headers={OFFSET_HEADER: str(done.offset), "cache-control": "no-store"})


router = Router(
    "/uploads", route_handlers=[begin, append, status, look], guards=[may(Permission.PUBLISH)], tags=["uploads"]
)

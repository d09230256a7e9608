"""`/trust`: who may sign what, the newest metadata to sign on top of, and new metadata that people signed."""

import base64
import binascii
from typing import Annotated, Any, Literal

from litestar import Response, Router, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, RequestBody
from msgspec import Meta, Struct

from firmware_schemas.limits import MAX_TARGETS_BYTES
from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.pages import Items
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import BadInput, NotFound
from sdx_hub.services.repositories.trust_overview import RoleView

Repository = Literal["image", "director"]
MAX_PUSH_BODY_BYTES = 4 * MAX_TARGETS_BYTES
_Base64 = Annotated[str, Meta(max_length=MAX_TARGETS_BYTES * 4 // 3 + 4)]


class Push(Struct, forbid_unknown_fields=True):
    """Signed metadata files, each as base64 of its exact bytes."""

    metadata: Annotated[list[_Base64], Meta(min_length=1, max_length=64)]


class SignedMetadata(Struct):
    """A file of TUF metadata. Its bytes are what was signed: keep them as they came."""

    signatures: list[dict[str, Any]]
    signed: dict[str, Any]


SIGNED_METADATA = {200: ResponseSpec(SignedMetadata, generate_examples=False)}
"""For the `responses` of a handler that answers such a file."""


class Pushed(Struct):
    """What was accepted, for instance `image/root 2`."""

    accepted: list[str]


@get("/", summary="Every role of both repositories, its keys and its expiry")
async def roles(hub: NamedDependency[Hub]) -> Items[RoleView]:
    return Items(await hub.trust.roles())


@get(
    "/{repository:str}/{role:str}",
    summary="The newest metadata of a role",
    responses=SIGNED_METADATA | refuses(404),
)
async def newest(hub: NamedDependency[Hub], repository: FromPath[Repository], role: FromPath[str]) -> Response[bytes]:
    if repository == "image":
        raw = await hub.image.newest(role)
    elif role == "root":
        raw = await hub.director.newest_root()
    else:
        raise NotFound("Of the director only the root is for everybody.", "metadata_not_found")
    return Response(raw, media_type="application/json", headers={"cache-control": "no-cache"})


@post(
    "/{repository:str}",
    status_code=200,
    summary="Bring new metadata that people signed",
    guards=[may(Permission.APPROVE)],
    request_max_body_size=MAX_PUSH_BODY_BYTES,
    responses=refuses(404, 409, 422),
)
async def push(
    hub: NamedDependency[Hub],
    principal: NamedDependency[Principal],
    repository: FromPath[Repository],
    data: RequestBody[Push],
) -> Pushed:
    target = hub.image if repository == "image" else hub.director
    return Pushed(await target.push(principal, [unbase64(text) for text in data.metadata]))


def unbase64(text: str) -> bytes:
    """Decode base64 strictly.

    Raises:
        BadInput: It is none (code `not_base64`).
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("A field that should be base64 is not.", "not_base64") from None


router = Router("/trust", route_handlers=[roles, push], tags=["trust"])
public_router = Router("/api/v1/trust", route_handlers=[newest], tags=["trust"])

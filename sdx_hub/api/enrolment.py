"""How a craft becomes a device: `/device/v1/enrol` for the craft, tokens and known keys for operators."""

from datetime import datetime, timedelta
from typing import Annotated

from litestar import Router, post
from litestar.di import NamedDependency
from litestar.params import RequestBody
from msgspec import Meta, Struct

from firmware_schemas.device_api import Ed25519Hex, EnrolResponse, Envelope, Serial
from firmware_schemas.limits import MAX_ENROL_BODY_BYTES
from sdx_hub.api.auth import may
from sdx_hub.api.hub import Hub
from sdx_hub.api.idempotency import OPTION, Idempotent
from sdx_hub.api.problems import refuses
from sdx_hub.domain.access import Permission, Principal


class EnrolTokenOrder(Struct, forbid_unknown_fields=True):
    """A single-use enrolment string to make, best bound to a serial."""

    serial: Serial | None = None
    life_s: Annotated[int, Meta(ge=1, le=90 * 86400)] = 7 * 86400


class EnrolTokenMade(Struct):
    """The only answer that ever shows the enrolment string."""

    id: str
    enrol_string: str
    expires_at: datetime


class DeviceKey(Struct, forbid_unknown_fields=True):
    """A device key that is accepted as soon as it shows up."""

    device_key: Ed25519Hex
    serial: Serial | None = None


@post(
    "/device/v1/enrol",
    status_code=200,
    summary="Enrol",
    tags=["device protocol"],
    request_max_body_size=MAX_ENROL_BODY_BYTES,
    responses=refuses(403, 409, 422),
)
async def enrol(hub: NamedDependency[Hub], data: RequestBody[Envelope]) -> EnrolResponse:
    return await hub.enrolment.enrol(data)


@post(
    "/enrol-tokens",
    summary="Make a single-use enrolment string",
    opt=OPTION,
    operation_class=Idempotent,
    responses=refuses(409),
)
async def new_enrol_token(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[EnrolTokenOrder]
) -> EnrolTokenMade:
    made = await hub.enrolment.new_enrol_token(principal, data.serial, timedelta(seconds=data.life_s))
    return EnrolTokenMade(made.id, made.enrol_string, made.expires_at)


@post(
    "/device-keys",
    summary="Accept a device key beforehand",
    opt=OPTION,
    operation_class=Idempotent,
    responses=refuses(409),
)
async def preauthorise(
    hub: NamedDependency[Hub], principal: NamedDependency[Principal], data: RequestBody[DeviceKey]
) -> DeviceKey:
    await hub.enrolment.preauthorise(principal, data.device_key, data.serial)
    return data


router = Router(
    "/",
    route_handlers=[new_enrol_token, preauthorise],
    guards=[may(Permission.OPERATE_DEVICES)],
    tags=["devices"],
)

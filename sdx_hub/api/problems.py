"""Every error as problem details (RFC 9457), with our stable `code`; of an unexpected one a client learns nothing."""

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.types import ExceptionHandlersMap
from msgspec import Struct
from sqlalchemy.exc import IntegrityError

from firmware_schemas.errors import SchemaError
from sdx_hub.domain.errors import HubError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
_CODES = {
    400: "bad_input",
    401: "not_authenticated",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "media_type_unsupported",
    429: "too_many_requests",
}
_RESERVED = frozenset({"type", "title", "status", "detail", "code", "instance"})
_log = structlog.get_logger(__name__)


class Problem(Struct):
    """What went wrong (RFC 9457). Some problems have more members, which their code announces."""

    type: str
    title: str
    status: int
    detail: str
    code: str


def refuses(*statuses: int) -> dict[int, ResponseSpec]:
    """For a handler's `responses`: what its service refuses with. `description` adds what the layers around it do."""
    return {status: ResponseSpec(Problem, generate_examples=False, media_type=MEDIA_TYPE) for status in statuses}


def document(status: int, code: str, detail: str, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The members of a problem; `extra` cannot replace the standard ones."""
    more = {name: value for name, value in (extra or {}).items() if name not in _RESERVED}
    standard = {
        "type": f"urn:sdx:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    return standard | more


def encoded(status: int, code: str, detail: str) -> bytes:
    """A problem as bytes, for paths that Litestar does not see."""
    return msgspec.json.encode(document(status, code, detail))


def answer(
    status: int, code: str, detail: str, extra: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> Response[dict[str, Any]]:
    more = dict(headers or {})
    if status == HTTPStatus.UNAUTHORIZED:
        more.setdefault("www-authenticate", "Bearer")
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        more.setdefault("retry-after", str((extra or {}).get("retry_after_s", RETRY_AFTER_S)))
    return Response(document(status, code, detail, extra), status_code=status, media_type=MEDIA_TYPE, headers=more)


def handlers() -> ExceptionHandlersMap:
    return {
        HubError: _hub_error,
        SchemaError: _schema_error,
        HTTPException: _http_exception,
        IntegrityError: _constraint,
        Exception: _fault,
    }


def _hub_error(_: Request[Any, Any, Any], error: HubError) -> Response[dict[str, Any]]:
    return answer(error.status, error.code, str(error), error.extra)


def _schema_error(_: Request[Any, Any, Any], error: SchemaError) -> Response[dict[str, Any]]:
    return answer(400, error.code, str(error))


def _http_exception(_: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    status = error.status_code
    if status >= 500 and "client disconnected" in error.detail:
        # Nobody reads this answer, and a lost connection is no fault of the hub's that its log should cry about.
        return answer(400, "client_disconnected", "The connection was lost before the request had arrived.")
    if status >= 500:
        return _fault(_, error)
    extra = {"errors": error.extra} if isinstance(error.extra, list) else {}
    detail = error.detail if error.detail.endswith(".") else f"{error.detail or HTTPStatus(status).phrase}."
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    return answer(status, _CODES.get(status, f"http_{status}"), detail, extra, headers)


def _constraint(request: Request[Any, Any, Any], error: IntegrityError) -> Response[dict[str, Any]]:
    _log.warning("constraint_refused", path=request.url.path, constraint=str(error.orig)[:200])
    return answer(409, "conflict", "Somebody else changed this at the same moment. Look again, then try again.")


def _fault(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    _log.error("request_failed", method=request.method, path=request.url.path, exc_info=error)
    return answer(
        500, "internal_error", "This is a fault of the hub. Its log has the details, under the sdx-request-id header."
    )


def text(content: str) -> Response[str]:
    return Response(content, media_type=MediaType.TEXT)

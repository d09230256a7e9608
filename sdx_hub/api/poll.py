"""`GET /device/v1/poll`, in front of Litestar: what every craft asks every minute, answered out of memory.

A poll reads no database, writes nothing and logs nothing. It hashes the token, looks the hash up, and compares a
number: 304 where the device knows the newest desired state already, else 200. Litestar would do the same at a fifth
of the speed (docs/performance.md has the figures).
"""

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX, INTERVAL_HEADER
from sdx_hub.api.problems import MEDIA_TYPE, RETRY_AFTER_S, encoded
from sdx_hub.domain.errors import HubError, NotAuthenticated
from sdx_hub.services.devices.fleet_state import FleetState, token_key

PATH = "/device/v1/poll"
App = Callable[[Any, Any, Any], Awaitable[None]]
_Headers = list[tuple[bytes, bytes]]

_PREFIX = f"Bearer {DEVICE_TOKEN_PREFIX}".encode()
_SCHEME_BYTES = len(b"Bearer ")
_MAX_HEADER_BYTES = 512
_NO_BODY = {"type": "http.response.body", "body": b""}
_log = structlog.get_logger(__name__)
_TOKEN_UNKNOWN = "This device token is not known here. Enrol the device again."  # noqa: S105 - a sentence


class PollTally:
    """How many polls were answered how, since the start."""

    def __init__(self) -> None:
        self.unchanged = 0
        self.changed = 0
        self.refused = 0


class PollPath:
    """Answers polls, and passes everything else on.

    Args:
        app: Everything else.
        fleet: The memory that polls are answered from; None until the hub has started.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.tally = PollTally()
        self._fleet: FleetState | None = None
        self._interval: tuple[bytes, bytes] = (b"", b"")

    def serve(self, fleet: FleetState) -> None:
        """Answer from this memory from now on."""
        self._fleet = fleet
        self._interval = (INTERVAL_HEADER.encode(), str(fleet.settings.interval_s).encode())

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"] == PATH and self._fleet is not None:
            return self._poll(self._fleet, scope, send)
        return self._app(scope, receive, send)

    async def _poll(self, fleet: FleetState, scope: Any, send: Any) -> None:
        authorization = known = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"if-none-match":
                known = value
        slot = None
        if authorization.startswith(_PREFIX) and len(authorization) <= _MAX_HEADER_BYTES:
            # Looking up a hash takes the same time for every wrong token: nothing of a right one leaks.
            token = authorization[_SCHEME_BYTES:]
            slot = fleet.slots.get(token_key(token))
            if slot is None:
                try:
                    slot = await fleet.find(token)
                except Exception:
                    # Known devices go on being answered while the database is away; for this one nobody can tell.
                    _log.exception("poll_lookup_failed")
                    await self._unavailable(send)
                    return
        if slot is None or scope["method"] != "GET" or fleet.versions[slot] < 0:
            await self._refuse(fleet, scope["method"], authorization, slot, send)
            return
        fleet.seen.add(slot)
        etag = b'"%d"' % fleet.versions[slot]
        if known == etag and not fleet.asks(slot):
            self.tally.unchanged += 1
            await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", etag), self._interval]})
            await send(_NO_BODY)
            return
        self.tally.changed += 1
        await self._answer(send, 200, fleet.answer(slot), b"application/json", [(b"etag", etag)])

    async def _refuse(self, fleet: FleetState, method: str, authorization: bytes, slot: int | None, send: Any) -> None:
        self.tally.refused += 1
        status, code, detail, header = 405, "method_not_allowed", "A poll is a GET.", (b"allow", b"GET")
        if method == "GET":
            try:
                if not authorization:
                    raise NotAuthenticated("A device token is needed: Authorization: Bearer sdxd_...", "token_missing")
                if slot is None:
                    raise NotAuthenticated(_TOKEN_UNKNOWN, "token_unknown")
                fleet.refuse_unless_accepted(slot)
            except HubError as error:
                status, code, detail = error.status, error.code, str(error)
                header = (b"www-authenticate", b"Bearer")
        await self._answer(send, status, encoded(status, code, detail), MEDIA_TYPE.encode(), [header])

    async def _unavailable(self, send: Any) -> None:
        self.tally.refused += 1
        body = encoded(503, "database_unavailable", "The hub's database is busy or away. Poll again later.")
        await self._answer(send, 503, body, MEDIA_TYPE.encode(), [(b"retry-after", b"%d" % RETRY_AFTER_S)])

    async def _answer(self, send: Any, status: int, body: bytes, media_type: bytes, more: _Headers) -> None:
        headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"private, no-cache"),
            self._interval,
            *more,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

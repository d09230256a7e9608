"""`GET /device/v1/poll`, in front of Litestar: what every craft asks every minute, answered out of memory.

A poll reads no database, writes nothing and logs nothing. It hashes the token, looks the hash up, and compares a
number: 304 where the device knows the newest desired state already, else 200. Litestar would do the same at a fifth
of the speed (docs/performance.md has the figures). Where the memory is too old to be believed, or the event loop too
late to keep up, the answer is 503, and the devices are told to come back spread over an interval (docs/adr/0012).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX, INTERVAL_HEADER
from sdx_hub.api.problems import MEDIA_TYPE, encoded
from sdx_hub.api.shedding import OVERLOADED, LoopLag
from sdx_hub.domain.errors import HubError, NotAuthenticated, Unavailable
from sdx_hub.domain.spreading import spread_s
from sdx_hub.services.devices.fleet_memory import token_key
from sdx_hub.services.devices.fleet_state import FleetState

PATH = "/device/v1/poll"
App = Callable[[Any, Any, Any], Awaitable[None]]
_Headers = list[tuple[bytes, bytes]]

_PREFIX = f"Bearer {DEVICE_TOKEN_PREFIX}".encode()
_SCHEME_BYTES = len(b"Bearer ")
_MAX_HEADER_BYTES = 512
_PROBLEM = MEDIA_TYPE.encode()
_NO_BODY = {"type": "http.response.body", "body": b""}
_log = structlog.get_logger(__name__)
_TOKEN_UNKNOWN = "This device token is not known here. Enrol the device again."  # noqa: S105 - a sentence


class PollTally:
    """How many polls were answered how, since the start.

    Attributes:
        unchanged: 304.
        changed: 200.
        refused: 401, 403, 405.
        unavailable: 503: the memory was too old, or the database could not be asked about a new token.
        shed: 503: the event loop was late.
    """

    ANSWERS: Final = ("unchanged", "changed", "refused", "unavailable", "shed")

    def __init__(self) -> None:
        self.unchanged = self.changed = self.refused = self.unavailable = self.shed = 0


class PollPath:
    """Answers polls, and passes everything else on.

    Args:
        app: Everything else.

    Attributes:
        tally: Of answers.
        lag: Of this worker's event loop; whoever measures it calls `lag.measure` again and again.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.tally = PollTally()
        self.lag = LoopLag()
        self._fleet: FleetState | None = None
        self._interval_s = 0
        self._interval: tuple[bytes, bytes] = (b"", b"")

    def serve(self, fleet: FleetState) -> None:
        """Answer from this memory from now on."""
        self._fleet = fleet
        self._interval_s = fleet.settings.interval_s
        self._interval = (INTERVAL_HEADER.encode(), str(self._interval_s).encode())

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "http" and scope["path"] == PATH and self._fleet is not None:
            return self._poll(self._fleet, scope, send)
        return self._app(scope, receive, send)

    async def _poll(self, fleet: FleetState, scope: Any, send: Any) -> None:
        if self.lag.late:
            self.tally.shed += 1
            await self._send_away(send, OVERLOADED)
            return
        authorization = known = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"if-none-match":
                known = value
        memory, slot = fleet.memory, None
        if authorization.startswith(_PREFIX) and len(authorization) <= _MAX_HEADER_BYTES:
            token = authorization[_SCHEME_BYTES:]
            slot = memory.tokens.find(token_key(token))
            if slot is None or fleet.now_s() > fleet.fresh_until_s:
                try:
                    slot = await fleet.find(token)
                except Exception as error:
                    self.tally.unavailable += 1
                    await self._send_away(send, _encoded(error))
                    return
        if slot is None or scope["method"] != "GET" or memory.versions[slot] < 0:
            await self._refuse(fleet, scope["method"], authorization, slot, send)
            return
        fleet.sightings.seen.add(slot)
        etag = b'"%d"' % memory.versions[slot]
        if known == etag and not memory.asks(slot):
            self.tally.unchanged += 1
            await send({"type": "http.response.start", "status": 304, "headers": [(b"etag", etag), self._interval]})
            await send(_NO_BODY)
            return
        self.tally.changed += 1
        await self._answer(send, 200, memory.answer(slot), b"application/json", [(b"etag", etag)])

    async def _refuse(self, fleet: FleetState, method: str, authorization: bytes, slot: int | None, send: Any) -> None:
        self.tally.refused += 1
        status, code, detail, header = 405, "method_not_allowed", "A poll is a GET.", (b"allow", b"GET")
        if method == "GET":
            try:
                if not authorization:
                    raise NotAuthenticated("A device token is needed: Authorization: Bearer sdxd_...", "token_missing")
                if slot is None:
                    raise NotAuthenticated(_TOKEN_UNKNOWN, "token_unknown")
                fleet.memory.refuse_unless_accepted(slot)
            except HubError as error:
                status, code, detail = error.status, error.code, str(error)
                header = (b"www-authenticate", b"Bearer")
        await self._answer(send, status, encoded(status, code, detail), _PROBLEM, [header])

    async def _send_away(self, send: Any, body: bytes) -> None:
        later = (b"retry-after", b"%d" % spread_s(self._interval_s))
        await self._answer(send, 503, body, _PROBLEM, [later])

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


def _encoded(error: Exception) -> bytes:
    """What a device is told where it could not be looked up."""
    if not isinstance(error, Unavailable):
        _log.error("poll_lookup_failed", error=repr(error)[:200])
        error = Unavailable("The hub's database is busy or away. Poll again later.", "database_unavailable")
    return encoded(error.status, error.code, str(error))

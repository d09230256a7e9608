"""One device's HTTP: a kept connection to one of several hubs, and the next one when that does not answer."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from msgspec import Struct

_PATIENCE_S = 20.0
_AGAIN_S = (0.1, 0.6)
"""Between two tries: a real device waits longer."""
_BUSY = 503


class Answer(Struct, frozen=True):
    """What a hub said; names of headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Asker:
    """Asks until somebody answers.

    Args:
        hubs: Addresses, `http://127.0.0.1:PORT`; it begins with the first one.
        token: The bearer's.
        stopped: Nobody waits for an answer any more.

    Attributes:
        lost: How often a connection broke off, or there was none.
        turned_away: How often a hub answered with 503.
    """

    def __init__(self, hubs: Sequence[str], token: str, stopped: Callable[[], bool] = lambda: False) -> None:
        self._places = [(split.hostname or "", split.port or 80) for split in map(urlsplit, hubs)]
        self._headers = f"host: hub\r\nauthorization: Bearer {token}\r\nuser-agent: sdx-agent/simulated\r\n"
        self._stopped = stopped
        self._at = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.lost = self.turned_away = 0

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Ask one hub after the other until one has an answer other than 503.

        The same request may arrive more than once, as it may from a device behind a proxy.

        Raises:
            asyncio.CancelledError: It is stopped.
        """
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        request = f"{method} {path} HTTP/1.1\r\n{self._headers}{length}{more}\r\n".encode() + body
        while not self._stopped():
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    answer = await self._once(request)
                if answer.status != _BUSY:
                    return answer
                self.turned_away += 1
            except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
                self.lost += 1
            self.close()
            self._at = (self._at + 1) % len(self._places)
            await asyncio.sleep(random.uniform(*_AGAIN_S))
        raise asyncio.CancelledError

    def close(self) -> None:
        if self._streams is not None:
            with suppress(OSError):
                self._streams[1].close()
            self._streams = None

    async def _once(self, request: bytes) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._places[self._at])
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(head[0].split()[1]), headers, body)

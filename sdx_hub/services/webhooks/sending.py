"""One attempt to send a message: one POST to one address that was looked at, within 15 s, and nothing followed."""

import asyncio
from contextlib import aclosing, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Final

import httpx

from sdx_hub.domain.webhook_schedule import Answer
from sdx_hub.services.webhooks.addresses import Refused, resolve

TIMEOUT_S: Final = 15.0
MAX_ANSWER_BYTES: Final = 1_024
"""So much of an answer's body is taken, so that a receiver can say all of a short one. Nobody gets to see it."""
_BODY_S: Final = 1.0
_NO_LIMIT: Final = httpx.Timeout(None)
_MAX_ERROR_CHARS: Final = 200


class Sender:
    """Sends for one process.

    Connections are not kept: two names can have one address, and a connection that was made for the one must not
    carry what is meant for the other. A proxy of the environment is not used, because what is behind it could not be
    looked at.

    Args:
        version: Of this program, for the receiver.
        plain: See `addresses.check_url`.
    """

    def __init__(self, version: str, *, plain: bool) -> None:
        self._plain = plain
        self._client = httpx.AsyncClient(
            headers={"user-agent": f"sdx-hub/{version}", "accept": "*/*"},
            verify=httpx.create_ssl_context(),
            trust_env=False,
            follow_redirects=False,
            timeout=_NO_LIMIT,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def send(self, url: str, headers: dict[str, str], body: bytes, now: datetime) -> Answer:
        """Send a message; however it goes wrong, that is an answer.

        Args:
            url: The address, as it was checked.
            headers: Of the message.
            body: JSON.
            now: UTC; for a receiver that names a date to come again.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._send(httpx.URL(url), headers | {"content-type": "application/json"}, body, now)
        except TimeoutError:
            return Answer(0, error=f"There was no answer within {TIMEOUT_S:g} s.")
        except Refused as error:
            return Answer(0, error=str(error))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            why = str(error) or type(error).__name__
            return Answer(0, error=f"The connection failed: {why}"[:_MAX_ERROR_CHARS])

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(self, url: httpx.URL, headers: dict[str, str], body: bytes, now: datetime) -> Answer:
        addresses = await resolve(url, plain=self._plain)
        for address in addresses[:-1]:
            try:
                return await self._send_to(address, url, headers, body, now)
            except httpx.ConnectError:
                continue  # Often there is an IPv6 address that nothing answers at.
        return await self._send_to(addresses[-1], url, headers, body, now)

    async def _send_to(
        self, address: str, url: httpx.URL, headers: dict[str, str], body: bytes, now: datetime
    ) -> Answer:
        # The certificate is checked against the name, although the connection goes to the address.
        name = {} if _is_address(url.host) else {"sni_hostname": url.raw_host.decode()}
        request = self._client.build_request(
            "POST",
            url.copy_with(host=address),
            headers=headers | {"host": url.netloc.decode()},
            content=body,
            extensions=name,
        )
        response = await self._client.send(request, stream=True)
        pieces: Any = response.aiter_raw(MAX_ANSWER_BYTES)
        try:
            with suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(_BODY_S), aclosing(pieces):
                    await anext(pieces, b"")
        finally:
            await response.aclose()
        error = "" if response.is_success else f"The receiver answered with {response.status_code}."
        return Answer(response.status_code, _seconds(response.headers.get("retry-after", ""), now), error)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _seconds(text: str, now: datetime) -> int:
    """A `Retry-After` (RFC 9110, 10.2.3): seconds, or a date."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    try:
        return max(0, int((parsedate_to_datetime(text) - now).total_seconds()))
    except (ValueError, TypeError, OverflowError):
        return 0

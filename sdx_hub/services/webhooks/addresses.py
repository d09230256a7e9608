"""Where the hub may send to. An admin names the address, and still the hub must not become a way into its own network.

What a name resolves to is looked at when it is sent to, and the connection goes to exactly that address: a name that
resolves to something else a moment later (DNS rebinding) reaches nothing. Refused are the addresses by which clouds
hand out the credentials of a machine, and addresses that are nobody's. Private networks are not refused: receivers are
often there. Whoever needs more puts the hubs behind an egress filter.
"""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

import httpx

from sdx_hub.domain.errors import BadInput

MAX_URL_CHARS: Final = 1_024
_Address = IPv4Address | IPv6Address
_REFUSED: Final = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",  # This machine, by another name.
        "169.254.0.0/16",  # Link-local: 169.254.169.254 is the metadata service of most clouds.
        "100.100.100.200/32",  # Alibaba Cloud's.
        "168.63.129.16/32",  # Azure's.
        "224.0.0.0/4",  # Multicast.
        "255.255.255.255/32",
        "::/128",
        "fe80::/10",
        "fd00:ec2::/32",  # Amazon's.
        "ff00::/8",
    )
)
_NAT64: Final = ip_network("64:ff9b::/96")


class Refused(Exception):
    """The hub does not send there; the message says why."""


def check_url(text: str, *, plain: bool) -> httpx.URL:
    """Return an address that may be stored.

    Args:
        text: As somebody wrote it.
        plain: Unencrypted ones are taken for any host, and not for this machine alone.

    Raises:
        BadInput: It is none, or not such a one (code `invalid_webhook_url`).
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    readable = text.isascii() and len(text) <= MAX_URL_CHARS and 0 < (url.port or 443) < 2**16
    if not readable or url.scheme not in {"http", "https"} or not url.host:
        raise BadInput("An address looks like https://receiver.example.org/hooks.", "invalid_webhook_url")
    if url.userinfo or url.fragment:
        raise BadInput(
            "An address has no user, no password and no fragment: the signature shows who sends.", "invalid_webhook_url"
        )
    if url.scheme == "http" and not plain and not _is_this_machine(url.host):
        raise BadInput(
            "Only https goes over a network: http is for this machine, and for environment = development.",
            "invalid_webhook_url",
        )
    return url


async def resolve(url: httpx.URL, *, plain: bool) -> list[str]:
    """The addresses to connect to, in the order in which they should be tried.

    Args:
        url: As `check_url` took it.
        plain: As for `check_url`.

    Raises:
        Refused: One of them is not sent to.
        OSError: The name has none.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in addresses:
        refuse(ip_address(text), only_loopback=url.scheme == "http" and not plain)
    return addresses


def refuse(address: _Address, *, only_loopback: bool = False) -> None:
    """Return if this is an address to send to.

    Raises:
        Refused: It is not.
    """
    for each in (address, *_within(address)):
        if any(each in network for network in _REFUSED):
            raise Refused(f"The hub does not send to {address}: it is link-local, or a cloud's own.")
    if only_loopback and not address.is_loopback:
        raise Refused(f"The hub does not send to {address} without encryption.")


def _within(address: _Address) -> list[IPv4Address]:
    """IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

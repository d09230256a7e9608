"""Where the hub sends to, and where not, whatever name it goes by."""

import socket
from ipaddress import ip_address

import httpx
import pytest

from sdx_hub.domain.errors import BadInput
from sdx_hub.services.webhooks.addresses import Refused, check_url, refuse, resolve

HTTPS = ["https://a.example", "https://a.example:8443/hooks?to=ops", "https://192.168.1.7/x", "https://[2001:db8::1]/"]
THIS_MACHINE = ["http://127.0.0.1:8000/x", "http://localhost/x", "http://[::1]:9/x", "http://127.1.2.3/"]


@pytest.mark.parametrize("url", [*HTTPS, *THIS_MACHINE])
def test_what_may_be_stored(url: str) -> None:
    assert str(check_url(url, plain=False)) in {url, f"{url}/"}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.example/hooks",
        "ftp://a.example",
        "file:///etc/passwd",
        "https://",
        "https:///hooks",
        "https://user:password@a.example/",
        "https://token@a.example/",
        "https://a.example/#part",
        "https://a.example:99999/",
        "https://a.example/\n",
        "https://0251.0376.0251.0376/",
        "https://ä.example/",
        "http://a.example/",
        "http://10.0.0.1/",
        "http://localhost.example/",
        "https://a.example/" + "x" * 1024,
    ],
)
def test_what_may_not(url: str) -> None:
    with pytest.raises(BadInput) as refusal:
        check_url(url, plain=False)
    assert refusal.value.code == "invalid_webhook_url"


def test_development_takes_plain_addresses() -> None:
    check_url("http://receiver.internal/x", plain=True)
    with pytest.raises(BadInput):
        check_url("http://user@receiver.internal/x", plain=True)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::a9fe:a9fe",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",  # noqa: S104 - refused
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ],
)
def test_addresses_of_clouds_and_of_nobody_are_refused(address: str) -> None:
    with pytest.raises(Refused):
        refuse(ip_address(address))


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "203.0.113.9", "2001:db8::1", "fd12::1", "127.0.0.1"])
def test_networks_of_ones_own_are_not(address: str) -> None:
    refuse(ip_address(address))


@pytest.mark.parametrize("address", ["10.0.0.1", "203.0.113.9", "2001:db8::1"])
def test_nothing_goes_over_a_network_without_encryption(address: str) -> None:
    with pytest.raises(Refused):
        refuse(ip_address(address), only_loopback=True)
    refuse(ip_address("127.0.0.1"), only_loopback=True)
    refuse(ip_address("::1"), only_loopback=True)


class Names:
    """Answers for names, in place of a resolver that nobody can be asked to run here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str]] = {}
        monkeypatch.setattr(socket, "getaddrinfo", self)

    def __call__(self, host: str, port: int, *_: object, **__: object) -> list[object]:
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.known[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def test_a_name_is_looked_at_when_it_is_sent_to(names: Names) -> None:
    url = httpx.URL("https://receiver.example/x")
    names.known["receiver.example"] = ["203.0.113.9", "2001:db8::1", "203.0.113.9"]
    assert await resolve(url, plain=False) == ["203.0.113.9", "2001:db8::1"]
    names.known["receiver.example"] = ["203.0.113.9", "169.254.169.254"]
    with pytest.raises(Refused):
        await resolve(url, plain=False)
    with pytest.raises(Refused):
        await resolve(url, plain=True)


async def test_localhost_that_is_somewhere_else_gets_nothing_in_clear(names: Names) -> None:
    names.known["localhost"] = ["203.0.113.9"]
    with pytest.raises(Refused):
        await resolve(httpx.URL("http://localhost/x"), plain=False)
    assert await resolve(httpx.URL("http://localhost/x"), plain=True) == ["203.0.113.9"]


@pytest.mark.parametrize("host", ["2852039166", "0xa9fea9fe", "169.254.43518"])
async def test_other_spellings_of_an_address_are_the_same_address(host: str) -> None:
    """The system's own resolver takes them for 169.254.169.254."""
    with pytest.raises(Refused):
        await resolve(httpx.URL(f"https://{host}/latest/meta-data"), plain=True)

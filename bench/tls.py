"""What TLS adds to a poll: a full handshake, a resumed one, and none, behind nginx and by the hub's own TLS.

Server CPU for each poll, in microseconds, from /proc: for nginx its own and the hub's behind it. Bytes of a connection
with its one poll, both ways, from the kernel (TCP_INFO, tcp(7)). The client is Python's ssl module (OpenSSL) in many
threads; TLS 1.3; the hub on SQLite, one worker, 304 answers, each device with its own token.

    kept      polls on connections that stay
    resumed   a new connection for each poll, which offers the ticket of the one before
    full      a new connection for each poll, without a ticket

Certificates of two kinds, because the signature is what a resumed handshake saves: P-256, and RSA of 2048 bits.
"""

import argparse
import contextlib
import itertools
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from bench.fleet_of_keys import enrol, polls
from bench.poll import is_unchanged, spread
from bench.processes import cpu_s, free_port, stop, wait_for_port
from tests.support.craft import HARDWARE
from tests.support.fleet import Fleet, start_fleet
from tests.support.hub import HubProcess
from tests.support.tls import CERTIFICATES, Certificate, make_certificate

DEVICES = 200
THREADS = 16
KINDS = ("kept", "resumed", "full")
_POLL_BYTES = 4096
_BYTES_ACKED_AND_RECEIVED = slice(120, 136)
"""Of `struct tcp_info` in linux/tcp.h: two unsigned 64-bit numbers."""


class Server(Struct, frozen=True):
    """What is measured, and whose CPU time counts."""

    name: str
    port: int
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self.pids)


class Client:
    """Asks over TLS, one poll after the other."""

    def __init__(self, port: int, certificate: Certificate, requests: Sequence[bytes]) -> None:
        self._port, self._requests = port, itertools.cycle(requests)
        self._context = ssl.create_default_context(cafile=str(certificate.ca))
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._session: ssl.SSLSession | None = None
        self.bytes = 0
        """Of the last connection that was closed."""

    def open(self, kind: str) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = self._session if kind == "resumed" else None
        link = self._context.wrap_socket(plain, server_hostname="localhost", session=session)
        if session is not None and not link.session_reused:
            raise RuntimeError("A session was not resumed.")
        if session is None and link.session_reused:
            raise RuntimeError("A full handshake was none.")
        return link

    def ask(self, link: ssl.SSLSocket) -> None:
        link.sendall(next(self._requests))
        answer = link.recv(_POLL_BYTES)
        if not is_unchanged(answer):
            raise RuntimeError(f"Not the right answer: {answer[:200]!r}")
        self._session = link.session

    def close(self, link: ssl.SSLSocket) -> None:
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        self.bytes = sum(struct.unpack("=QQ", info[_BYTES_ACKED_AND_RECEIVED]))
        link.close()

    def kept(self, seconds: float) -> int:
        return self._for(seconds, self.open("full"))

    def resumed(self, seconds: float) -> int:
        link = self.open("full")
        self.ask(link)  # The first ticket.
        self.close(link)
        return self._for(seconds, None, "resumed")

    def full(self, seconds: float) -> int:
        return self._for(seconds, None, "full")

    def _for(self, seconds: float, link: ssl.SSLSocket | None, kind: str = "") -> int:
        end, count = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            if link is not None:
                self.ask(link)
            else:
                once = self.open(kind)
                self.ask(once)
                self.close(once)
            count += 1
        if link is not None:
            link.close()
        return count


@contextlib.contextmanager
def nginx(folder: Path, hub_port: int, certificate: Certificate) -> Iterator[Server]:
    """A proxy with one worker, session tickets and kept connections to the hub."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    port = free_port()
    folder.mkdir()
    (folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_timeout 120s; keepalive_requests 1000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream hub {{ server 127.0.0.1:{hub_port}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate.cert}; ssl_certificate_key {certificate.key}; ssl_protocols TLSv1.3;
    ssl_session_cache shared:tls:10m; ssl_session_tickets on;
    location / {{ proxy_pass http://hub; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
""")
    process = subprocess.Popen(
        [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port, process)
        yield Server("nginx", port, (process.pid,))
    finally:
        stop(process)


class Cost(Struct, frozen=True):
    """Of one poll: the server's CPU time, and what goes over the link where a connection has this one poll."""

    cpu_us: float
    bytes: int


def measure(server: Server, clients: Sequence[Client], kind: str, seconds: float) -> Cost:
    before_s = server.cpu_s()
    with ThreadPoolExecutor(len(clients)) as pool:
        count = sum(pool.map(lambda client: getattr(client, kind)(seconds), clients))
    return Cost((server.cpu_s() - before_s) / count * 1e6, clients[0].bytes)


def compare(folder: Path, rounds: int, seconds: float) -> dict[str, list[Cost]]:
    found: dict[str, list[Cost]] = {}
    with start_fleet(folder / "fleet") as fleet:
        devices = enrol(fleet.url, fleet.publisher.token, DEVICES, HARDWARE)
        asked = polls(fleet.url, devices)
        for keys in CERTIFICATES:
            certificate = make_certificate(folder / keys, keys)
            with servers(folder / f"with-{keys}", fleet, certificate) as both:
                for _, server, kind in itertools.product(range(rounds), both, KINDS):
                    clients = [Client(server.port, certificate, asked[each::THREADS]) for each in range(THREADS)]
                    cost = measure(server, clients, kind, seconds)
                    name = f"{server.name}, {keys}, {kind}"
                    found.setdefault(name, []).append(cost)
                    print(f"{name:<36} {cost.cpu_us:7.0f} us of CPU   {cost.bytes:6} bytes", flush=True)
    return found


@contextlib.contextmanager
def servers(folder: Path, fleet: Fleet, certificate: Certificate) -> Iterator[list[Server]]:
    """The same hub twice: behind nginx, and as a second process that ends TLS itself."""
    folder.mkdir()
    tls = {"SDX_TLS_CERT": str(certificate.cert), "SDX_TLS_KEY": str(certificate.key)}
    own = HubProcess(fleet.hub.data, tls)
    own.log = folder / "hub.log"
    own.start()
    try:
        with nginx(folder / "nginx", fleet.hub.port, certificate) as proxy:
            behind = Server("nginx", proxy.port, (*proxy.pids, fleet.hub.pid))
            yield [behind, Server("hub", own.port, (own.pid,))]
    finally:
        own.close()


def table(found: dict[str, list[Cost]]) -> list[str]:
    """Rows of Markdown: microseconds of the server's CPU for a poll, medians; in parentheses, times a kept one."""
    rows = [
        "| TLS ends at | certificate | kept | resumed | full | bytes, resumed | bytes, full |",
        "|---|---|---|---|---|---|---|",
    ]
    for server, keys in itertools.product(("nginx", "hub"), CERTIFICATES):
        costs = {kind: found[f"{server}, {keys}, {kind}"] for kind in KINDS}
        cpu = {kind: spread([each.cpu_us for each in costs[kind]], 0)[1] for kind in KINDS}
        cells = [f"{cpu['kept']:.0f} us"]
        cells += [f"{cpu[kind]:.0f} us ({cpu[kind] / cpu['kept']:.1f})" for kind in KINDS[1:]]
        cells += [f"{costs[kind][-1].bytes:,}" for kind in KINDS[1:]]
        rows.append(f"| {server} | {keys} | {' | '.join(cells)} |")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdx-bench-") as place:
        found = compare(Path(place), chosen.rounds, chosen.seconds)
    print("\n".join(table(found)))
    document = {
        name: {"cpu_us": spread([each.cpu_us for each in costs], 0), "bytes": costs[-1].bytes}
        for name, costs in found.items()
    }
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())

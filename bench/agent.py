"""What the polling process of `sdx-agent run` costs, beside Debian's swupdate in the same run.

Compared is the part that is there while flying: the process that polls, with nothing to install. Ours polls the real
hub; swupdate runs its hawkBit daemon (`-u`, suricatta) against a listener that always says "nothing to do", which is
what it has beside it when idle. Both are reached over plain HTTP on loopback.

    ready       from the start of the process to the first poll that arrives
    cpu         user and system time of that process until then: what a busy machine cannot spoil
    notified    ours only: to READY=1 for systemd
    peak        VmHWM of the polling process; for swupdate of its largest process (it has three), and the sum of PSS
    updated     ours only: the peak again after a whole update, whose worker came and went
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.processes import cpu_s, memory_kib, proportional_kib, stop, tree
from tests.support.craft import AGENT, Craft
from tests.support.fleet import Fleet, start_fleet
from tests.support.mitm import Answer, Mitm, Request
from tests.support.publisher import Payload

ROUNDS = 5
SETTLE_S = 3.0
MOST_RSS_MB = 30.0
MOST_READY_MS = 150.0
_IDLE = json.dumps({"config": {"polling": {"sleep": "00:01:00"}}, "_links": {}}).encode()


class Arrivals(ThreadingHTTPServer):
    """A hawkBit server without work: it notes when each request arrives."""

    def __init__(self) -> None:
        self.at: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.at.append(time.monotonic())
                self.rfile.read(int(self.headers.get("content-length") or 0))
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(_IDLE)))
                self.end_headers()
                self.wfile.write(_IDLE)

            do_PUT = do_POST = do_GET

            def log_message(self, *_: object) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads = True
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class Notified(threading.Thread):
    """systemd's end of the notify socket (sd_notify(3)): notes when READY=1 comes."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.at = path, 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(30)

    def run(self) -> None:
        while not self.at:
            if b"READY=1" in self._socket.recv(4096).split(b"\n"):
                self.at = time.monotonic()
        self._socket.close()


def wait(arrivals: Sequence[float], what: str, within_s: float = 30) -> float:
    end = time.monotonic() + within_s
    while not arrivals:
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not poll within {within_s:g} s.")
        time.sleep(0.002)
    return arrivals[0]


def ours(fleet: Fleet, craft: Craft, folder: Path, *, update_to: str = "") -> dict[str, float]:
    """One start of the polling process; with `update_to`, an update while it runs."""
    arrivals: list[float] = []

    def note(request: Request) -> Answer | None:
        if request.path.startswith("/device/v1/poll"):
            arrivals.append(time.monotonic())
        return None

    with Mitm(fleet.url) as proxy, (folder / "agent.log").open("ab") as log:
        proxy.lie(note)
        craft.point_at(proxy.url)
        notified = Notified(folder / f"notify-{time.monotonic_ns()}")
        notified.start()
        started = time.monotonic()
        process = subprocess.Popen(
            [AGENT, "run", "--state", str(craft.state)],
            stdout=log,
            stderr=log,
            env=os.environ | {"NOTIFY_SOCKET": str(notified.path)},
        )
        try:
            ready = wait(arrivals, "sdx-agent") - started
            spent = cpu_s(process.pid)
            notified.join(30)
            time.sleep(SETTLE_S)
            found = {
                "ready_ms": ready * 1000,
                "cpu_ms": spent * 1000,
                "notified_ms": (notified.at - started) * 1000,
                "peak_mb": memory_kib(process.pid, "VmHWM") / 1024,
                "pss_mb": sum(proportional_kib(pid) for pid in tree(process.pid)) / 1024,
            }
            if update_to:
                fleet.publisher.assign(update_to, craft.device_id)
                until_updated(craft, update_to)
                found["updated_mb"] = memory_kib(process.pid, "VmHWM") / 1024
            return found
        finally:
            stop(process)


def until_updated(craft: Craft, release: str, within_s: float = 120) -> None:
    version = release.partition("@")[2]
    end = time.monotonic() + within_s
    while {part["version"] for part in craft.status()["components"]} != {version}:
        if time.monotonic() > end:
            raise RuntimeError(f"The agent did not reach {release} within {within_s:g} s: {craft.status()}")
        time.sleep(0.5)
    time.sleep(SETTLE_S)


def swupdate(program: str, folder: Path) -> dict[str, float]:
    """One start of Debian's swupdate as a hawkBit daemon; it takes only signed images, so it gets a certificate."""
    certificate = folder / "certificate.pem"
    if not certificate.exists():
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=bench", "-days", "2"]
        subprocess.run(
            [*command, "-keyout", str(folder / "key.pem"), "-out", str(certificate)], check=True, capture_output=True
        )
    server = Arrivals()
    suricatta = f"-t DEFAULT -u http://127.0.0.1:{server.server_port} -i bench -p 45"
    with (folder / "swupdate.log").open("ab") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [program, "-k", str(certificate), "-u", suricatta],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        try:
            ready = wait(server.at, "swupdate") - started
            spent = cpu_s(process.pid)
            time.sleep(SETTLE_S)
            all_of_it = tree(process.pid)
            return {
                "ready_ms": ready * 1000,
                "cpu_ms": spent * 1000,
                "peak_mb": max(memory_kib(pid, "VmHWM") for pid in all_of_it) / 1024,
                "pss_mb": sum(proportional_kib(pid) for pid in all_of_it) / 1024,
            }
        finally:
            stop(process)
            server.shutdown()
            server.server_close()


def spread(rounds: Sequence[dict[str, float]], key: str) -> list[float]:
    """Minimum, median, maximum."""
    values = [one[key] for one in rounds if key in one]
    return [round(min(values), 1), round(statistics.median(values), 1), round(max(values), 1)]


def program_version(program: str) -> str:
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "swupdate"], check=False, capture_output=True, text=True
    )
    return shown.stdout.strip() or program


def payload(version: str) -> Payload:
    return Payload(
        "app", {"check": b"#!/bin/sh\nexit 0\n", "data": os.urandom(4 << 20), "V": version.encode()}, ("./check",)
    )


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sdx-bench-") as place:
        folder = Path(place)
        program = shutil.which("swupdate")
        print(
            f"swupdate {program_version(program)} (Debian), three processes, suricatta mode, nothing to do"
            if program
            else "swupdate is not installed (apt-get install swupdate): ours alone."
        )
        with start_fleet(folder / "fleet") as fleet:
            for version in ("1.0.0", "2.0.0"):
                fleet.publisher.publish("bench", version, [payload(version)])
            craft = fleet.new_craft(folder / "craft", fleet.url)
            fleet.publisher.assign("bench@1.0.0", craft.device_id)
            outcome = craft.run_once()
            if outcome.code != 0:
                raise RuntimeError(f"The first installation failed: {outcome}")
            mine: list[dict[str, float]] = []
            theirs: list[dict[str, float]] = []
            for number in range(ROUNDS):
                last = number == ROUNDS - 1
                mine.append(ours(fleet, craft, folder, update_to="bench@2.0.0" if last else ""))
                if program:
                    theirs.append(swupdate(program, folder))
    return show(mine, theirs)


def show(mine: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> int:
    figures: dict[str, dict[str, list[float]]] = {
        "sdx_agent": {
            key: spread(mine, key) for key in ("ready_ms", "cpu_ms", "notified_ms", "peak_mb", "pss_mb", "updated_mb")
        }
    }
    if theirs:
        figures["swupdate"] = {key: spread(theirs, key) for key in ("ready_ms", "cpu_ms", "peak_mb", "pss_mb")}
    print(f"{len(mine)} starts each, alternating; min, median, max")
    for name, found in figures.items():
        print(f"  {name}: " + "; ".join(f"{key} {' '.join(f'{v:g}' for v in values)}" for key, values in found.items()))
    peak, ready = figures["sdx_agent"]["updated_mb"][2], figures["sdx_agent"]["ready_ms"][1]
    peak = max(peak, figures["sdx_agent"]["peak_mb"][2])
    holds = peak <= MOST_RSS_MB and ready <= MOST_READY_MS
    print(f"bounds: peak {peak:g} of {MOST_RSS_MB:g} MB, ready {ready:g} of {MOST_READY_MS:g} ms (median)")
    print(json.dumps({"rounds": len(mine), "holds": holds, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

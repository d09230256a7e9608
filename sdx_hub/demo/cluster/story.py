"""The main job through the proxy, with a replica that is killed in the middle of it and comes back."""

import hashlib
import os
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from firmware_schemas.limits import UPLOAD_CHUNK_BYTES
from sdx_hub.demo.cluster.cluster import Cluster
from sdx_hub.demo.cluster.topology import HUBS
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.story import Story
from sdx_hub.publishing import bundle

FIRST, SECOND, THIRD = "1.0.0", "1.1.0", "2.0.0"
_SMALL_BYTES, _LARGE_BYTES = 2 * 1024**2, 12 * UPLOAD_CHUNK_BYTES
_FIRST_PIECES, _PIECES_AT_KILL = 2, 5
_WAIT_S = 120.0
_CHECK = """\
#!/bin/sh
# Healthy means: whole, and of the version that it claims.
set -eu
sha256sum --check --quiet SHA256SUMS >&2
"""


class ClusterStory(Story):
    """People and craft who know one address, and what happens behind it.

    Args:
        cluster: Not started yet.
        devices: How many craft.
        say: Takes a sentence for the person who watches.
    """

    product = "autopilot"

    def __init__(self, cluster: Cluster, devices: int, say: Callable[[str], None]) -> None:
        super().__init__(cluster.folder, devices, say, {"SSL_CERT_FILE": str(cluster.ca)})
        self._cluster = cluster
        self._token = ""
        self._pool = ThreadPoolExecutor(1)
        self.upload_resumed_at = self.upload_at_kill = self.updating_at_kill = 0

    def start_cluster(self) -> None:
        """PostgreSQL, S3, the ceremony, two hubs, the proxy.

        Raises:
            DemoError: One of them does not start.
        """
        self._say("PostgreSQL and an S3 server start.")
        self._cluster.start_stores()
        self.hold_ceremony()
        first = self._cluster.initialise(self.folder / "ceremony")
        self._cluster.start_hubs()
        self.url, self._token = self._cluster.url, first["admin_token"]
        self.log_in(first)
        self.save([os.getpid()])
        self._say(f"Two hubs are up behind one proxy with TLS: {self.url}")

    def make_payloads(self) -> None:
        """Three payloads of random bytes, which no compression makes small: nothing is fetched from anywhere."""
        for version, size in ((FIRST, _SMALL_BYTES), (SECOND, _SMALL_BYTES), (THIRD, _LARGE_BYTES)):
            folder = self.folder / "payloads" / version
            folder.mkdir(parents=True)
            files = {"firmware": os.urandom(size), "VERSION": f"{version}\n".encode()}
            sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
            for name, content in {**files, "SHA256SUMS": sums.encode(), "check": _CHECK.encode()}.items():
                (folder / name).write_bytes(content)
            (folder / "check").chmod(0o755)
            (folder.parent / f"{version}.param").write_text(f"RTL_ALT,{1500 + len(version) * int(version[0])}\n")

    def lose_a_replica(self) -> None:
        """Kill a replica while a payload is on its way in and craft are being updated; both must arrive.

        Raises:
            DemoError: They do not, or nothing was under way at the kill.
        """
        self.build(THIRD)
        path, self.upload_resumed_at = self._begin_upload()
        self._say(f"The publisher's line breaks: {_mib(self.upload_resumed_at)} of {THIRD} have been acknowledged.")
        publishing = self._pool.submit(self.publish, THIRD)
        with self._client() as client:

            def arrived() -> int:
                return int(client.get(path).raise_for_status().json()["offset"])

            self._until(lambda: arrived() > self.upload_resumed_at, "the upload to go on")
            order = {"release": f"{self.product}@{SECOND}", "tag": "fleet"}
            client.post("/api/v1/assignments", json=order).raise_for_status()
            self._until(lambda: arrived() >= _PIECES_AT_KILL * UPLOAD_CHUNK_BYTES, "the upload to go on")
            self._cluster.hubs[HUBS[0]].kill()
            self.upload_at_kill = arrived()
            devices = client.get("/api/v1/devices", params={"tag": "fleet"}).raise_for_status().json()["items"]
        self.updating_at_kill = sum(device["action"]["state"] == "open" for device in devices)
        if publishing.done() or not self.updating_at_kill:
            raise DemoError("The replica was killed too late: nothing was under way any more. Run it again.")
        self._say(
            f"{HUBS[0]} was killed: {_mib(self.upload_at_kill)} of {THIRD} had arrived, and {self.updating_at_kill} of "
            f"{len(self.craft)} craft were on their way to {SECOND}."
        )
        publishing.result(_WAIT_S)
        self._say(f"{self.product}@{THIRD}: the same command went on, and it is published.")

    def bring_it_back(self) -> None:
        """Start the killed replica, kill the other one when polls come again, and ask the one that came back.

        Raises:
            DemoError: It does not know all of it.
        """
        back, other = (self._cluster.hubs[name] for name in HUBS)
        back.start()
        # The proxy sends requests to a replica again 5 s after it last failed, without being told.
        self._until(lambda: back.polls() > 0, f"the proxy to use {HUBS[0]} again")
        other.kill()
        with self._client() as client:
            # Polls have a group of their own there: for people it may have to find out yet that this one is back.
            self._until(lambda: client.get("/api/v1/releases").status_code != 503, f"{HUBS[0]} to answer people")
        known = {release["id"] for release in self.alice.sdx("release", "list")}
        wanted = {f"{self.product}@{version}" for version in (FIRST, SECOND, THIRD)}
        if known != wanted:
            raise DemoError(f"{HUBS[0]} came back and knows {sorted(known)}, not {sorted(wanted)}.")
        other.start()
        self._say(f"{HUBS[0]} is back. Alone, with {HUBS[1]} killed, it knew all three releases. Both are up again.")

    def close(self) -> None:
        """Stop everything."""
        super().close()
        self._cluster.close()
        self._pool.shutdown()

    def _begin_upload(self) -> tuple[str, int]:
        """Send the first pieces of the large payload and leave; return the upload's path and what was acknowledged."""
        opened = bundle.read(self.folder / self.bundle(THIRD))
        sha256, part = max(opened.payloads.items(), key=lambda item: item[1].size)
        length = next(each.length for each in opened.manifest.components if each.sha256 == sha256)
        order = {"sha256": sha256, "length": part.size, "encoding": "zstd", "decoded_length": length}
        with self._client() as client, opened.content(part) as content:
            begun = client.post("/api/v1/uploads", json=order).raise_for_status().json()
            path, offset = f"/api/v1/uploads/{begun['id']}", int(begun["offset"])
            for _ in range(_FIRST_PIECES):
                piece, headers = content.read(UPLOAD_CHUNK_BYTES), {"upload-offset": str(offset)}
                offset = client.patch(path, content=piece, headers=headers).raise_for_status().json()["offset"]
        return path, offset

    def _client(self) -> httpx.Client:
        trusted = ssl.create_default_context(cafile=str(self._cluster.ca))
        headers = {"authorization": f"Bearer {self._token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=trusted)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + _WAIT_S
        while not condition():
            if time.monotonic() > end:
                raise DemoError(f"Waited {_WAIT_S:.0f} s for {what}.")
            time.sleep(0.01)


def _mib(size: int) -> str:
    return f"{size // 1024**2} MiB"

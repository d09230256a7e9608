"""A real S3 server: SeaweedFS, all of it in one process (`weed mini`)."""

import json
import os
import secrets
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from obstore.exceptions import BaseError
from obstore.store import S3Store

from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.servers import process
from sdx_hub.demo.servers.ports import free_ports
from sdx_hub.demo.tools import program

REGION = "us-east-1"
FLAGS = (
    "-s3.autoCreateBucket=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-webdav=false",
    "-master.telemetry=false",
)
"""How it differs from its defaults, also in docker-compose.yml: nothing but S3, and nothing is told to anybody."""
START_S = 60.0
"""A start takes 2 s; more only where the machine is busy."""

_STOP_S = 20.0
_NO_ROOM = ("-volume.max=1", "-master.volumeSizeLimitMB=1")
"""No further file may be made, and the one that there is is over its limit: what a full disk is to SeaweedFS."""
_PARTS = ("master", "volume", "filer", "s3", "admin")
_ATTEMPTS = 5
_SOCKETS = Path("/tmp")  # noqa: S108 - where SeaweedFS puts sockets that are named by its ports


class SeaweedServer:
    """One S3 server with one bucket; ports, credentials and content stay the same over restarts.

    It ends with the thread that called `start`: let that be one that lives as long as the server shall.

    Args:
        folder: Of its data, its configuration and its log; made where it does not exist.
        bucket: Made at the first start; the credentials reach this one alone.
        options: More flags of `weed mini`.
    """

    def __init__(self, folder: Path, bucket: str = "sdx", options: tuple[str, ...] = ()) -> None:
        self.folder = folder.absolute()
        self.bucket = bucket
        self.key_id, self.secret = self._credentials()
        self.log = self.folder / "weed.log"
        self._options = options
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"SeaweedServer(folder={self.folder}, bucket={self.bucket})"

    @property
    def endpoint(self) -> str:
        """Known once it has been started."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def url(self) -> str:
        """What the hub's setting `blob_url` takes."""
        return self.url_of("")

    def url_of(self, prefix: str) -> str:
        """The same for a hub that shall share the bucket with others."""
        return f"s3://{self.bucket}/{prefix}?endpoint={self.endpoint}&region={REGION}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DemoError("The S3 server is not running.")
        return self._process.pid

    def start(self, *, full: bool = False) -> None:
        """Start it, and wait until it takes and gives objects.

        Args:
            full: It gives objects and takes none, as with a disk that is full.

        Raises:
            DemoError: It does not; its last words are in the message.
        """
        (self.folder / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in range(_ATTEMPTS):
            first = not self._ports
            if first:
                ports = iter(free_ports(2 * len(_PARTS)))
                self._ports = {f"{part}{kind}": next(ports) for part in _PARTS for kind in ("", ".grpc")}
            self._spawn(_NO_ROOM if full else ())
            if self._ready(writes=not full):
                return
            self.kill()
            if not first or b"address already in use" not in self.log.read_bytes():
                break
            self._ports = {}  # Somebody was faster with one of them.
        raise DemoError(f"The S3 server did not start: {self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End it as a service manager does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a warning."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Have it accept connections and never answer, as a server does whose disk hangs."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _credentials(self) -> tuple[str, str]:
        """Made once, in a file that nobody else may read: the arguments of a process are for everybody to see."""
        file = self.folder / "s3.json"
        if not file.exists():
            made = {"accessKey": f"hub-{secrets.token_hex(8)}", "secretKey": secrets.token_urlsafe(32)}
            actions = [f"{action}:{self.bucket}" for action in ("Read", "Write", "List")]
            identities = [{"name": "hub", "credentials": [made], "actions": actions}]
            self.folder.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            file.write_text(json.dumps({"identities": identities}), encoding="utf-8")
        known = json.loads(file.read_text(encoding="utf-8"))["identities"][0]["credentials"][0]
        return known["accessKey"], known["secretKey"]

    def _spawn(self, more: tuple[str, ...]) -> None:
        arguments = [
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.folder / 'data'}",
            f"-bucket={self.bucket}",
            f"-s3.config={self.folder / 's3.json'}",
            *FLAGS,
        ]
        arguments += [
            f"-{name.replace('.grpc', '')}.port{'.grpc' if name.endswith('.grpc') else ''}={port}"
            for name, port in self._ports.items()
        ]
        self._process = process.start(
            [program("weed"), "-logtostderr=true", "mini", *arguments, *self._options, *more],
            self.log,
            end_with=signal.SIGTERM,
            environment={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)},
        )

    def _ready(self, *, writes: bool) -> bool:
        store = S3Store(
            self.bucket,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id=self.key_id,
            secret_access_key=self.secret,
            client_options={"allow_http": True, "timeout": "5s", "connect_timeout": "1s"},
            retry_config={"max_retries": 0},
        )
        until = time.monotonic() + START_S
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            try:
                if writes:
                    store.put(".ready", b"ready")
                    store.delete(".ready")
                else:
                    store.list_with_delimiter()
            except (BaseError, OSError):
                time.sleep(0.05)
            else:
                return True
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
            os.killpg(self._process.pid, signal.SIGCONT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for port in self._ports.values():
            for left in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)

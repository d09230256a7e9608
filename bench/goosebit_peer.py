"""goosebit, the Python peer: its newest release from PyPI, in an environment of its own, as it comes.

As it comes means: uvicorn, one process (its container's setting), SQLite (the default of its `db_uri`), and no device
authentication (its default). In its favour: no access log, as in its container. On loopback instead of every interface.
"""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.processes import free_port, stop, wait_for_port

_SERVE = """
import sys, uvicorn
from goosebit import app
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False)
"""
_MIGRATE = """
import asyncio
from pathlib import Path
import goosebit
from aerich import Command
from goosebit.db.config import TORTOISE_CONF

async def migrate():
    folder = Path(goosebit.__file__).parent / "db" / "migrations"
    async with Command(tortoise_config=TORTOISE_CONF, app="models", location=str(folder)) as command:
        await command.upgrade(run_in_transaction=True)

asyncio.run(migrate())
"""


def environment(folder: Path) -> Path:
    """The Python of goosebit's environment; made and filled from PyPI where it is missing.

    Raises:
        SystemExit: The package index cannot be reached.
    """
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print("Installing goosebit into an environment of its own (once) ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if subprocess.run([str(python), "-m", "pip", "install", "--quiet", "goosebit"], check=False).returncode != 0:
            raise SystemExit(
                "goosebit cannot be installed, so there is nothing to compare with. Connect to the package index, or "
                "point pip to a mirror (PIP_INDEX_URL), and run again."
            )
        (folder / "installed").touch()
    return python


def version(python: Path) -> str:
    code = 'from importlib.metadata import version as v; print(f\'goosebit {v("goosebit")}, uvicorn {v("uvicorn")}\')'
    return subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def server(python: Path, folder: Path, core: int) -> Iterator[tuple[int, int]]:
    """A running goosebit with an empty database.

    Yields:
        Its process id and its port.
    """
    folder.mkdir(parents=True)
    settings = {
        "GOOSEBIT_DB_URI": f"sqlite://{folder / 'db.sqlite3'}",
        "GOOSEBIT_ARTIFACTS_DIR": str(folder / "artifacts"),
    }
    everything = os.environ | settings
    port = free_port()
    with (folder / "log").open("wb") as log:
        subprocess.run([str(python), "-c", _MIGRATE], check=True, cwd=folder, env=everything, stdout=log, stderr=log)
        process = subprocess.Popen(
            [str(python), "-c", _SERVE, str(port)], cwd=folder, env=everything, stdout=log, stderr=log
        )
    try:
        os.sched_setaffinity(process.pid, {core})
        wait_for_port(port, process)
        yield process.pid, port
    finally:
        stop(process)


def path_of(device: str) -> str:
    return f"/DEFAULT/controller/v1/{device}"


def register(port: int, devices: Iterable[str]) -> None:
    """Make the devices known and registered, so that a poll has nothing to do for them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for device in devices:
        _ask(connection, "GET", path_of(device))
        data = {"data": {"hw_boardname": "rpi-cm4", "hw_revision": "1", "sw_version": "1.0.0"}}
        _ask(connection, "PUT", f"{path_of(device)}/configData", data)
    connection.close()


def is_idle(answer: bytes) -> bool:
    """Whether a whole answer says: registered, nothing to do."""
    return answer.startswith(b"HTTP/1.1 200") and b'"sleep":"00:01:00"' in answer and answer.endswith(b'"_links":{}}')


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> None:
    raw = json.dumps(body).encode() if body is not None else None
    connection.request(method, path, body=raw, headers={"content-type": "application/json"} if raw else {})
    answer = connection.getresponse()
    said = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"goosebit answered {answer.status} to {method} {path}: {said[:200]!r}")

"""nginx as the physical limit: one worker, a static file, and a conditional GET that it answers by a real 304.

In its favour: no access log, and the file stays open (`open_file_cache`).
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.processes import free_port, stop, wait_for_port

_FILE = "device/v1/poll"
_CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  open_file_cache max=16;
  {temporary}
  server {{ listen 127.0.0.1:{port}; root {folder}/root; }}
}}
"""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextmanager
def server(folder: Path) -> Iterator[tuple[int, int, str]]:
    """A running nginx that serves one small file at the address of the poll.

    Yields:
        Its process id, its port, and the ETag of the file.
    """
    file = folder / "root" / _FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b'{"desired_version":0}')
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            folder=folder,
            port=port,
            user="user root;" if os.geteuid() == 0 else "",
            temporary=" ".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY),
        )
    )
    process = subprocess.Popen([program(), "-e", str(folder / "error.log"), "-c", str(configuration)])
    try:
        wait_for_port(port, process)
        yield process.pid, port, httpx.get(f"http://127.0.0.1:{port}/{_FILE}").headers["etag"]
    finally:
        stop(process)


def program() -> str:
    """Where nginx is.

    Raises:
        SystemExit: It is not installed.
    """
    found = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if found is None:
        raise SystemExit(
            "nginx is not installed, so there is no limit to compare with. Install it: apt-get install nginx."
        )
    return found


def version() -> str:
    return (
        subprocess.run([program(), "-v"], check=True, capture_output=True, text=True).stderr.rpartition(": ")[2].strip()
    )

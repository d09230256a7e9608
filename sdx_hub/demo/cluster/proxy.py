"""nginx in front of the replicas, with the configuration that the containers have."""

import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx

from sdx_hub.demo.cluster.topology import CONNECTIONS, TEMPLATE, Places, proxy_config, proxy_variables
from sdx_hub.demo.errors import DemoError
from sdx_hub.demo.servers import process

START_S = 20.0
_OWN_FILES = 500
"""Logs, connections to the hubs and the like, beside the connections of devices."""


def find_nginx() -> str:
    """The program.

    Raises:
        DemoError: It is not installed (code `nginx_missing`).
    """
    # Where distributions put it is not on the PATH of everybody but root.
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin")
    if found is None:
        raise DemoError(
            "The cluster's proxy is nginx, and it is not installed here. Install it (Debian, Ubuntu: sudo apt-get "
            "install nginx-light; Fedora: sudo dnf install nginx; macOS has no setpriv: use a container) and run the "
            "same command again. It need not run as a service.",
            "nginx_missing",
        )
    return found


def find_template() -> str:
    """The text of the configuration's template.

    Raises:
        DemoError: This installation has no `deploy` folder (code `not_a_checkout`).
    """
    if not TEMPLATE.is_file():
        raise DemoError(
            f"{TEMPLATE} is missing: the cluster runs from a checkout of the project, with `make cluster`.",
            "not_a_checkout",
        )
    return TEMPLATE.read_text(encoding="utf-8")


def open_files() -> int:
    """Raise this process' limit of open files to what it may have; what it starts inherits it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connections() -> int:
    """How many connections one worker can hold within the limit of open files."""
    return min(CONNECTIONS, open_files() - _OWN_FILES)


class Proxy:
    """nginx as a process.

    Args:
        places: Where everything is.
        folder: For its configuration and its error log.
    """

    def __init__(self, places: Places, folder: Path) -> None:
        self.url = places.public_url
        self.log = folder / "nginx.log"
        self._program = find_nginx()
        self._status = f"http://{places.proxy_status}/status"
        self._config = folder / "nginx.conf"
        self._config.write_text(proxy_config(proxy_variables(places), find_template()), encoding="utf-8")
        Path(places.proxy_run).mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> str:
        """What nginx says about its configuration.

        Raises:
            DemoError: It refuses it.
        """
        done = subprocess.run(  # noqa: S603 - the program that was found
            [self._program, "-t", "-e", "stderr", "-c", str(self._config)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DemoError(f"nginx refuses {self._config}: {done.stderr}")
        return done.stderr

    def start(self) -> None:
        """Start it, and wait until it answers; it ends with the thread that called this.

        Raises:
            DemoError: It ended, or does not answer; its last words are in the message.
        """
        self._process = process.start(
            [self._program, "-e", "stderr", "-c", str(self._config)],
            self.log,
            end_with=signal.SIGTERM,
            as_nobody=process.is_root(),
        )
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(self._status, timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        raise DemoError(f"nginx does not answer: {self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill_all(self._process)
            self._process = None

"""What the agent tells the service manager: ready, alive, and a line for people. sd_notify(3) without its library."""

import os
import socket
from contextlib import suppress


class ServiceManager:
    """systemd, or whoever set NOTIFY_SOCKET; without one, nothing happens.

    Attributes:
        watchdog_s: It wants to hear from us at least this often; 0 where it does not care.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        env = dict(os.environ) if environment is None else environment
        address = env.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract name space (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = env.get("WATCHDOG_USEC", "")
        for_us = env.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
        self.watchdog_s = int(usec) / 1e6 if usec.isascii() and usec.isdigit() and for_us else 0.0

    def ready(self) -> None:
        self._send("READY=1")

    def alive(self) -> None:
        if self.watchdog_s:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        self._send("STATUS=" + text.replace("\n", " ")[:200])

    def _send(self, line: str) -> None:
        if not self._address:
            return
        # A service manager that is away must not stop the agent.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(self._address)
            channel.send(line.encode())

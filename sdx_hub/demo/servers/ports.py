"""Ports of the loopback interface that a server can keep over a restart."""

import random
import socket
from contextlib import ExitStack

_FIRST, _LAST = 20_000, 32_000
"""Below the range that Linux gives to outgoing connections: none of them takes a port while its server is down."""


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on now."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            tried = held.enter_context(socket.socket())
            port = random.randint(_FIRST, _LAST)  # noqa: S311 - no secret
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found

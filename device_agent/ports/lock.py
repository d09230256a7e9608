"""One agent in a state folder, and one worker: a lock that the kernel drops when its holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_agent.core.errors import SettingsError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock.

    Raises:
        SettingsError: Somebody else holds it (code `state_busy`), or the folder is missing (`not_enrolled`).
    """
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path.parent} is no state folder: run `sdx-agent enrol` first.", "not_enrolled"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"Another agent works in {path.parent}: stop it first.", "state_busy") from error
        yield
    finally:
        os.close(descriptor)

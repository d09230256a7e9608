"""Files of this process while it works on a payload: nobody else knows them, and a crash's leftovers are swept."""

import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

SCRATCH_LIFE = timedelta(hours=1)
"""A file that nobody wants and that was not written for so long is a crash's leftover."""


class Scratch:
    """A folder. `sweep` and `remove` block: call them in a thread.

    Args:
        folder: Made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        self.folder = folder

    def path(self) -> Path:
        """For a new file of the caller's own."""
        return self.folder / f"scratch-{secrets.token_hex(16)}"

    def remove(self, *paths: Path) -> None:
        """Remove files; one that is gone already is no error."""
        for path in paths:
            path.unlink(missing_ok=True)

    def sweep(self, wanted: set[str]) -> None:
        """Remove every file but the wanted, and what is young: another worker may be writing it."""
        before = datetime.now(UTC) - SCRATCH_LIFE
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if path.name not in wanted and path.stat().st_mtime < before.timestamp():
                    path.unlink()

"""The shell around the verifier: fetch, have verified, keep. One repository at a time, in the order of the workflow.

What is kept, and when:

- A root is kept at once: people signed it.
- The image repository's other files are kept as they verify, so that a bad link does not have them fetched again.
- The director's other files are kept only when the whole instruction was accepted (`keep_accepted`): whoever stole its
  online keys, but can only make the device refuse, cannot push its versions ahead of the honest ones.
- When a root replaces an online key, what that key vouched for is dropped before the new root is kept: a power cut in
  between has the same done again.
"""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from tuf.api.metadata import TargetFile

from device_agent.core.errors import InstallError, SettingsError
from device_agent.ports.storage import Storage, lasting_folder, read_optional, replace_file
from device_agent.trust.repository import Repository
from firmware_schemas.limits import (
    MAX_ROOT_BYTES,
    MAX_ROOT_ROTATIONS,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
)

Fetch = Callable[[str, int], bytes | None]
"""Takes a file name and its size bound; returns the bytes, or None where the repository has no such file."""


class MetadataFolder:
    """STATE/metadata/REPOSITORY: verified files by role, without version."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._folder, self._storage = folder, storage

    def read(self, role: str) -> bytes | None:
        try:
            return read_optional(self._path(role), MAX_TARGETS_BYTES)
        except ValueError:
            return None

    def write(self, role: str, raw: bytes) -> None:
        lasting_folder(self._storage, self._folder)
        replace_file(self._storage, self._path(role), raw)

    def remove(self, *roles: str) -> None:
        for role in roles:
            self._storage.unlink(self._path(role))
        self._storage.sync_folder(self._folder)

    def _path(self, role: str) -> Path:
        return self._folder / f"{quote(role, '')}.json"


class Refresh:
    """Bring one repository up to date.

    Args:
        folder: Its files.
        fetch: Its remote side.
        keep_accepted: Keep all but roots only when `accept` is called.
    """

    def __init__(self, folder: MetadataFolder, fetch: Fetch, *, keep_accepted: bool) -> None:
        self._folder, self._fetch, self._keep_accepted = folder, fetch, keep_accepted
        self._waiting: dict[str, bytes] = {}

    def stored_root(self) -> bytes:
        """The trusted root.

        Raises:
            SettingsError: There is none (code `root_missing`).
        """
        raw = self._folder.read("root")
        if raw is None:
            raise SettingsError(
                "The trusted root is missing from the state folder: enrol this device again.", "root_missing"
            )
        return raw

    def root(self, repository: Repository) -> None:
        """Walk the chain of roots (specification 5.3).

        Raises:
            TrustError: A root does not follow from the one before.
            TransportError: The link failed.
        """
        for _ in range(MAX_ROOT_ROTATIONS):
            raw = self._fetch(f"{repository.root_version + 1}.root.json", MAX_ROOT_BYTES)
            if raw is None:
                return
            if repository.add_root(raw):
                self._folder.remove("timestamp", "snapshot")
            self._folder.write("root", raw)

    def timestamp(self, repository: Repository) -> None:
        """Load what was trusted before, then the newest (specification 5.4).

        Raises:
            TrustError, TransportError: As above.
            InstallError: The repository lacks the file (code `metadata_missing`); so below.
        """
        local = self._folder.read("timestamp")
        if local is not None:
            repository.add_local_timestamp(local)
        raw = self._get("timestamp.json", MAX_TIMESTAMP_BYTES)
        if repository.add_timestamp(raw):
            self._keep("timestamp", raw)

    def snapshot(self, repository: Repository) -> None:
        """The snapshot that the timestamp names (specification 5.5)."""
        local = self._folder.read("snapshot")
        if local is not None and repository.add_local_snapshot(local):
            return
        listed = repository.snapshot_listed()
        raw = self._get(f"{listed.version}.snapshot.json", listed.longest_bytes)
        repository.add_snapshot(raw)
        self._keep("snapshot", raw)

    def role(self, repository: Repository, role: str, delegator: str) -> None:
        """`targets` or a delegated role, as the snapshot lists it (specification 5.6)."""
        local = self._folder.read(role)
        if local is not None and repository.add_local_role(local, role, delegator):
            return
        listed = repository.role_listed(role)
        raw = self._get(f"{listed.version}.{quote(role, '')}.json", listed.longest_bytes)
        repository.add_role(raw, role, delegator)
        self._keep(role, raw)

    def find(self, repository: Repository, path: str) -> TargetFile | None:
        """Look a target up, fetching the delegated roles on the way."""
        return repository.find(path, lambda role, delegator: self.role(repository, role, delegator))

    def accept(self) -> None:
        """Keep what waits for it."""
        for role, raw in self._waiting.items():
            self._folder.write(role, raw)
        self._waiting.clear()

    def _keep(self, role: str, raw: bytes) -> None:
        if self._keep_accepted:
            self._waiting[role] = raw
        else:
            self._folder.write(role, raw)

    def _get(self, name: str, longest_bytes: int) -> bytes:
        raw = self._fetch(name, longest_bytes)
        if raw is None:
            raise InstallError(f"The hub has no {name[:100]}, which it should have.", "metadata_missing")
        return raw

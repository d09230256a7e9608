"""The image repository as a person's own TUF client sees it: from the pinned root, verified, before anything is signed.

The hub is not trusted for any of it. A hub that was broken into cannot make a person sign on top of metadata that the
team did not sign.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from firmware_schemas.limits import (
    MAX_DELEGATIONS,
    MAX_ROOT_BYTES,
    MAX_ROOT_ROTATIONS,
    MAX_SNAPSHOT_BYTES,
    MAX_TARGETS_BYTES,
    MAX_TIMESTAMP_BYTES,
)
from sdx_hub.domain.errors import HubError, NotFound, TrustError, Unavailable
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.team_metadata import TeamView
from sdx_hub.trust import rotation
from sdx_hub.trust.ceremony import TEAM_PREFIX

METADATA = "/tuf/image/metadata/"


class _Fetcher(FetcherInterface):
    """tuf's client on our HTTP client: the same TLS, proxy and error rules."""

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(self._hub.url)
        try:
            return iter([self._hub.raw(path)])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error
        except HubError as error:
            raise DownloadError(str(error)) from error


class ImageView:
    """A verified snapshot of the image repository.

    Args:
        hub: Where to fetch from.
        folder: Keeps what was seen, so that the hub cannot roll anything back later.
        root: The pinned root metadata.

    Raises:
        TrustError: The repository is not genuine or has expired (code `image_refused`).
        Unavailable: It cannot be fetched.
    """

    def __init__(self, hub: HubClient, folder: Path, root: bytes) -> None:
        self._hub = hub
        self._folder = folder
        self.warnings: list[str] = []
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _refusals():
            self._updater = Updater(
                str(folder),
                f"{hub.url}{METADATA}",
                fetcher=_Fetcher(hub),
                config=UpdaterConfig(
                    max_root_rotations=MAX_ROOT_ROTATIONS,
                    max_delegations=MAX_DELEGATIONS,
                    root_max_length=MAX_ROOT_BYTES,
                    timestamp_max_length=MAX_TIMESTAMP_BYTES,
                    snapshot_max_length=MAX_SNAPSHOT_BYTES,
                    targets_max_length=MAX_TARGETS_BYTES,
                ),
                bootstrap=root,
            )
            self._updater.refresh()
        self.root: Root = self._local("root").signed
        self.targets: Targets = self._local("targets").signed
        self.snapshot: Snapshot = self._local("snapshot").signed

    def team(self, role: str) -> TeamView:
        """One team's current, verified metadata.

        Raises:
            NotFound: There is no such role (code `role_unknown`).
            TrustError: Its metadata is not genuine (code `image_refused`).
        """
        delegations = self.targets.delegations
        if delegations is None or delegations.roles is None or role not in delegations.roles:
            raise NotFound(f"The hub has no role {role}.", "role_unknown")
        prefix = role.removeprefix(TEAM_PREFIX)
        with _refusals():
            try:
                # No such target exists: the search walks the delegation, and verifies the role on its way.
                self._updater.get_targetinfo(f"{prefix}/-/-/-")
                return TeamView(role, self.targets, self._local(role).signed)
            except ExpiredMetadataError:
                return TeamView(role, self.targets, self._expired(role))

    def signed_targets(self) -> Metadata[Targets]:
        """The top targets role with its signatures."""
        return self._local("targets")

    def signed_team(self, role: str) -> Metadata[Targets]:
        """A team's current metadata with its signatures.

        Raises:
            NotFound, TrustError: As for `team`.
        """
        current = self.team(role).current
        metadata = rotation.parse(self._hub.raw(f"{METADATA}{current.version}.{role}.json"), role)
        if metadata.signed != current:
            raise TrustError(f"{role} is not the version that was verified.", "image_refused")
        return metadata

    def _expired(self, role: str) -> Targets:
        """A team's metadata that is genuine but has expired: the only way forward is to sign the next version on it.

        Everything but the expiry is checked as in TUF 1.0.34, section 5.6: hashes and version by the snapshot, the
        threshold by the delegator.
        """
        listed = self.snapshot.meta[f"{role}.json"]
        raw = self._hub.raw(f"{METADATA}{listed.version}.{role}.json")
        listed.verify_length_and_hashes(raw)
        metadata = rotation.parse(raw, role)
        self.targets.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        if not isinstance(metadata.signed, Targets) or metadata.signed.version != listed.version:
            raise TrustError(f"{role} is not the version that the snapshot names.", "image_refused")
        self.warnings.append(
            f"The metadata of {role} expired on {metadata.signed.expires:%Y-%m-%d}: devices refuse its releases until "
            "a new version is signed."
        )
        return metadata.signed

    def _local(self, role: str) -> Metadata[Any]:
        return rotation.parse((self._folder / f"{role}.json").read_bytes(), role)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except RepositoryError as error:
        raise TrustError(
            f"The hub's image repository is refused: {error}. Sign nothing; ask the people who hold the root keys.",
            "image_refused",
        ) from error
    except DownloadError as error:
        raise Unavailable(f"Cannot fetch the image repository: {error}", "hub_unreachable") from error
    except OSError as error:
        raise Unavailable(f"Cannot keep the image repository's metadata: {error}.", "cache_unwritable") from error

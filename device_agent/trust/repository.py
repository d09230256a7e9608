"""One TUF repository as verified so far: bytes in, refusals with stable codes out. No I/O.

The checks are those of the client workflow (TUF specification 1.0.34, section 5), made by python-tuf's
TrustedMetadataSet; this adds our time, our codes, and a walk of the delegations that ends. The order of loading is
root, timestamp, snapshot, targets, delegated targets; nothing can be loaded out of order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple, cast

from tuf.api.exceptions import (
    BadVersionNumberError,
    EqualVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import TargetFile, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from device_agent.core.errors import TrustError
from firmware_schemas.limits import MAX_DELEGATIONS, MAX_SNAPSHOT_BYTES, MAX_TARGETS_BYTES

ONLINE_ROLES = ("timestamp", "snapshot")


class Listed(NamedTuple):
    """A metadata file that verified metadata lists: its version, and how many bytes it may have."""

    version: int
    longest_bytes: int


class Repository:
    """What is trusted of one repository.

    Args:
        label: `director` or `image`, for messages.
        root: The trusted root's bytes; pinned by its digest at enrolment, or the last one of the chain since.
        now: The time to check expiry against; see `set_time`.

    Raises:
        TrustError: The stored root does not verify itself.
    """

    def __init__(self, label: str, root: bytes, now: datetime) -> None:
        self.label = label
        with self._refusing("root", "metadata_malformed"):
            self._set = TrustedMetadataSet(root, EnvelopeType.METADATA)
        self._set.reference_time = now

    @property
    def root_version(self) -> int:
        return self._set.root.version

    @property
    def timestamp(self) -> Timestamp:
        return self._set.timestamp

    @property
    def targets(self) -> Targets:
        return self._set.targets

    def keyids(self, role: str) -> tuple[str, ...]:
        """Key ids of a top-level role in the current root, sorted."""
        return tuple(sorted(self._set.root.roles[role].keyids))

    def set_time(self, now: datetime) -> None:
        """Raise the time, once the timestamp has told it.

        Raises:
            TrustError: The root has expired by it. (The timestamp's own expiry is checked before the snapshot.)
        """
        self._set.reference_time = now
        if self._set.root.is_expired(now):
            raise TrustError(f"The {self.label} repository's root has expired: a new one must be signed.", _EXPIRED)

    def add_root(self, raw: bytes) -> bool:
        """The next root: signed by the threshold of the old one and of itself, version one more.

        Returns:
            Whether an online key was replaced, so that what it vouched for is worth nothing (specification 5.3.11:
            the recovery from a fast-forward attack).

        Raises:
            TrustError: It is not.
        """
        before = [self.keyids(role) for role in ONLINE_ROLES]
        with self._refusing("root", "metadata_rollback"):
            self._set.update_root(raw)
        return before != [self.keyids(role) for role in ONLINE_ROLES]

    def add_local_timestamp(self, raw: bytes) -> None:
        """What was trusted before: the guard against a rollback. One that no longer verifies guards nothing."""
        self._add_local(lambda: self._set.update_timestamp(raw))

    def add_timestamp(self, raw: bytes) -> bool:
        """The repository's timestamp, not older than the one before.

        Returns:
            Whether it is new, to be kept.

        Raises:
            TrustError: metadata_rollback, metadata_expired, metadata_bad_signature, metadata_malformed.
        """
        with self._refusing("timestamp", "metadata_rollback"):
            try:
                self._set.update_timestamp(raw)
            except EqualVersionNumberError:
                return False
        return True

    def snapshot_listed(self) -> Listed:
        meta = self._set.timestamp.snapshot_meta
        return Listed(meta.version, min(meta.length or MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_BYTES))

    def add_local_snapshot(self, raw: bytes) -> bool:
        """The snapshot trusted before; return whether it is also the one that the timestamp names now."""
        return self._add_local(lambda: self._set.update_snapshot(raw, trusted=True))

    def add_snapshot(self, raw: bytes) -> None:
        """The snapshot that the timestamp names; no metadata file removed or older than before.

        Raises:
            TrustError: metadata_mismatch, metadata_rollback, metadata_expired, metadata_bad_signature,
                metadata_malformed.
        """
        before = self._set.get("snapshot")
        with self._refusing("snapshot", "metadata_rollback"):
            try:
                self._set.update_snapshot(raw)
            except BadVersionNumberError as error:
                # python-tuf loads a snapshot of another version than the listed one as "intermediate", and then raises.
                if self._set.get("snapshot") is before:
                    raise
                raise TrustError(
                    f"The {self.label} repository's timestamp names snapshot {self.snapshot_listed().version}, "
                    f"and version {self._set.snapshot.version} came.",
                    "metadata_mismatch",
                ) from error

    def has_role(self, role: str, delegator: str) -> bool:
        """Whether `role` is loaded and was verified against this very delegator (the fault of python-tuf 7.0.0)."""
        return self._set.contains(role, delegator)

    def role_listed(self, role: str) -> Listed:
        """What the snapshot says about `targets` or a delegated role.

        Raises:
            TrustError: Nothing (code `metadata_mismatch`).
        """
        meta = self._set.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise TrustError(
                f"The {self.label} repository delegates to {role[:80]!r}, which its snapshot does not list.",
                "metadata_mismatch",
            )
        return Listed(meta.version, min(meta.length or MAX_TARGETS_BYTES, MAX_TARGETS_BYTES))

    def add_local_role(self, raw: bytes, role: str, delegator: str) -> bool:
        """A role's metadata kept from earlier; return whether it is what the snapshot lists now."""
        return self._add_local(lambda: self._set.update_delegated_targets(raw, role, delegator))

    def add_role(self, raw: bytes, role: str, delegator: str) -> None:
        """`targets` or a delegated role, in the version that the snapshot lists, signed as the delegator demands.

        Raises:
            TrustError: metadata_mismatch, metadata_expired, metadata_bad_signature, metadata_malformed.
        """
        with self._refusing(role, "metadata_mismatch"):
            self._set.update_delegated_targets(raw, role, delegator)

    def find(self, path: str, load: Callable[[str, str], None]) -> TargetFile | None:
        """Look a target up: preorder, most trusted role first (specification 5.6.7).

        Args:
            path: The target's path.
            load: Called with a role and its delegator when that role's metadata is needed.

        Raises:
            TrustError: More than MAX_DELEGATIONS roles would have to be visited (code `delegation_too_deep`).
        """
        waiting = [("targets", "root")]
        visited: set[str] = set()
        while waiting:
            role, delegator = waiting.pop()
            if role in visited:
                continue
            # The top-level role is no delegation, hence the one more.
            if len(visited) > MAX_DELEGATIONS:
                raise TrustError(
                    f"More than {MAX_DELEGATIONS} delegated roles would have to be visited for {path[:200]!r}.",
                    "delegation_too_deep",
                )
            visited.add(role)
            if not self.has_role(role, delegator):
                load(role, delegator)
            signed = cast(Targets, self._set[role])
            if path in signed.targets:
                return signed.targets[path]
            children: list[tuple[str, str]] = []
            if signed.delegations is not None:
                for child, terminating in signed.delegations.get_roles_for_target(path):
                    children.append((child, role))
                    if terminating:
                        waiting = []
                        break
            waiting.extend(reversed(children))
        return None

    def _add_local(self, add: Callable[[], object]) -> bool:
        try:
            add()
        except (RepositoryError, RuntimeError):
            return False
        return True

    @contextmanager
    def _refusing(self, role: str, other_version: str) -> Iterator[None]:
        """Turn python-tuf's errors into refusals with our codes."""
        where = f"{role[:80]} of the {self.label} repository"
        try:
            yield
        except ExpiredMetadataError as error:
            raise TrustError(
                f"The {where} has expired: the hub does not renew it, or somebody plays old metadata again.", _EXPIRED
            ) from error
        except UnsignedMetadataError as error:
            raise TrustError(f"The {where} is not signed by enough of its keys.", "metadata_bad_signature") from error
        except LengthOrHashMismatchError as error:
            raise TrustError(f"The {where} is not the file that is listed.", "metadata_mismatch") from error
        except BadVersionNumberError as error:
            raise TrustError(f"The {where} has a wrong version: {error}.", other_version) from error
        except RepositoryError as error:
            reason = str(error.__cause__ or error)[:200]
            code = next((code for text, code in _CODES_BY_TEXT.items() if text in reason), "metadata_malformed")
            raise TrustError(f"The {where} is not valid: {reason}.", code) from error


_EXPIRED = "metadata_expired"
_CODES_BY_TEXT = {
    # python-tuf has no classes for these. A role that vanished from the snapshot is a rollback (specification 5.5.5); a
    # key that signed twice is refused before signatures are counted.
    "missing info": "metadata_rollback",
    "Multiple signatures": "metadata_bad_signature",
}

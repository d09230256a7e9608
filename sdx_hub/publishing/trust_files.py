"""Metadata files of a ceremony or a rotation: which role each is of, by whose keys it counts, and what it changes.

TUF metadata does not name its role, so it is found out: a root from the keys that it shares with the present roots (the
director's are other people), the top targets role from its delegations, a team from the name of the file.

A file of a ceremony (version 1) is explained by its neighbours in the folder; later ones by the verified image
repository. The newest of both counts, because a change may bring the delegator and the role in one go.
"""

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Targets

from sdx_hub.domain.errors import ConflictError, NotFound, TrustError
from sdx_hub.publishing.payload import replacing
from sdx_hub.publishing.trust_change import DIRECTOR, IMAGE, TARGETS
from sdx_hub.trust import rotation
from sdx_hub.trust.ceremony import ROOT_LIFE, TARGETS_LIFE, TEAM_LIFE
from sdx_hub.trust.rotation import SignatureState

_NAME = re.compile(r"^(?:(?P<repository>image|director)\.)?(?P<version>\d{1,9})\.(?P<role>[a-z0-9][a-z0-9._-]*)\.json$")
T = TypeVar("T", Root, Targets)


class Present(Struct, frozen=True):
    """What there is today, asked for only when a file needs it.

    Attributes:
        image_root, image_targets: Verified from the pinned root.
        team: A team's verified metadata; raises NotFound.
        director_root: As the hub says: nobody pins the director's root on a person's machine.
    """

    image_root: Callable[[], Root]
    image_targets: Callable[[], Targets]
    team: Callable[[str], Targets]
    director_root: Callable[[], Root]


class TrustFile(Struct, frozen=True):
    """A file that people sign, explained.

    Attributes:
        judges: What its keys are called, who lists them, and as which role they count there. A root has two: the old
            one and itself.
        before: What it follows; None where there is nothing, or nothing that was verified.
        verified: `before` goes back to the pinned root.
    """

    path: Path
    repository: str
    role: str
    metadata: Metadata[Any]
    judges: tuple[tuple[str, Root | Targets, str], ...]
    before: Root | Targets | None
    verified: bool

    @property
    def name(self) -> str:
        return f"{self.repository}/{self.role}"

    def states(self) -> list[SignatureState]:
        return [rotation.signature_state(by, delegator, role, self.metadata) for by, delegator, role in self.judges]

    @property
    def complete(self) -> bool:
        return all(state.met for state in self.states())

    def allowed_keys(self) -> dict[str, Key]:
        """Every key that may sign this file."""
        found: dict[str, Key] = {}
        for _, delegator, role in self.judges:
            known = delegator.keys if isinstance(delegator, Root) else _delegation_keys(delegator)
            found |= {keyid: known[keyid] for keyid in _keyids(delegator, role) if keyid in known}
        return found

    def description(self) -> list[str]:
        """What somebody who signs agrees to, one sentence a line."""
        signed = self.metadata.signed
        lines = rotation.describe_change(self.before if self.verified else None, signed)
        if isinstance(signed, Targets) and rotation.is_delegated(self.role):
            old = self.before.targets if isinstance(self.before, Targets) else {}
            lines.append(f"{len(signed.targets)} targets, as before" if old else "no targets yet")
        return lines


def explain(path: Path, present: Present, now: datetime) -> TrustFile:
    """Read a file, find out what it is, and check that somebody may sign it.

    Raises:
        NotFound: There is no such file (`file_missing`), or nobody delegates to its role (`role_unknown`).
        ConflictError: It is not the next version of its role (code `metadata_outdated`).
        TrustError: It is no such metadata (`metadata_invalid`), lasts too long (`expiry_refused`), or changes targets,
            which only a release may (`targets_changed`).
    """
    metadata = read(path)
    signed = metadata.signed
    if isinstance(signed, Root):
        file = _root(path, metadata, signed, present)
        life: timedelta = ROOT_LIFE
    elif isinstance(signed, Targets) and signed.delegations is not None:
        root = _newest("root", Root, path, signed.version, present.image_root)
        before = present.image_targets() if signed.version > 1 else None
        judges = ((f"root {root.version}", root, TARGETS),)
        file, life = TrustFile(path, IMAGE, TARGETS, metadata, judges, before, True), TARGETS_LIFE
    elif isinstance(signed, Targets):
        file, life = _team(path, metadata, signed, present), TEAM_LIFE
    else:
        raise TrustError(f"{path} is {signed.type} metadata: the hub signs that by itself.", "metadata_invalid")
    if file.before is not None and signed.version != file.before.version + 1:
        raise ConflictError(
            f"{file.name} is at version {file.before.version}, and {path} is version {signed.version}. Make the change "
            "again on the present version: sdx keys rotate.",
            "metadata_outdated",
            current_version=file.before.version,
        )
    rotation.check_expiry(signed, life, now)
    return file


def read(path: Path) -> Metadata[Any]:
    """Parse a metadata file.

    Raises:
        NotFound: There is none (code `file_missing`).
        TrustError: It is something else (code `metadata_invalid`).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise NotFound(f"Cannot read {path}: {error.strerror}.", "file_missing") from error
    return rotation.parse(raw, str(path))


def write(file: TrustFile, metadata: Metadata[Any]) -> None:
    """Replace the file, whole or not at all."""
    with replacing(file.path) as target:
        target.write(metadata.to_bytes())


def valid_signatures(file: TrustFile) -> dict[str, Any]:
    """The signatures of the file that count for one of its judges."""
    kept: dict[str, Any] = {}
    for _, delegator, role in file.judges:
        result = delegator.get_verification_result(role, file.metadata.signed_bytes, file.metadata.signatures)
        kept |= {keyid: file.metadata.signatures[keyid] for keyid in result.signed}
    return kept


def root_repository(root: Root, path: Path, present: Present) -> str:
    """Which repository a root belongs to.

    Raises:
        TrustError: It shares no key with the present roots (code `root_unknown`).
    """
    if root.version == 1:
        named = _NAME.match(path.name)
        is_director = path.absolute().parent.name == DIRECTOR or (named is not None and named["repository"] == DIRECTOR)
        return DIRECTOR if is_director else IMAGE
    mine = set(root.roles["root"].keyids)
    present_roots = {IMAGE: present.image_root, DIRECTOR: present.director_root}
    shared = {name: len(mine & set(find().roles["root"].keyids)) for name, find in present_roots.items()}
    best = max(shared, key=lambda name: shared[name])
    if not shared[best]:
        raise TrustError(
            f"{path} shares no key with the hub's present roots: it is another hub's, or forged. Do not sign it.",
            "root_unknown",
        )
    return best


def _root(path: Path, metadata: Metadata[Any], signed: Root, present: Present) -> TrustFile:
    repository = root_repository(signed, path, present)
    judges: list[tuple[str, Root | Targets, str]] = [(f"root {signed.version}", signed, "root")]
    before = None
    if signed.version > 1:
        before = present.image_root() if repository == IMAGE else present.director_root()
        judges.insert(0, (f"root {before.version}", before, "root"))
    return TrustFile(path, repository, "root", metadata, tuple(judges), before, repository == IMAGE)


def _team(path: Path, metadata: Metadata[Any], signed: Targets, present: Present) -> TrustFile:
    named = _NAME.match(path.name)
    if named is None or not rotation.is_delegated(named["role"]):
        raise TrustError(
            f"{path} is a team's metadata, but its name does not say whose: call it VERSION.team-NAME.json.",
            "metadata_invalid",
        )
    role = named["role"]
    delegator = _newest(TARGETS, Targets, path, signed.version, present.image_targets)
    if role not in ((delegator.delegations.roles if delegator.delegations else None) or {}):
        raise NotFound(f"Version {delegator.version} of targets does not delegate to {role}.", "role_unknown")
    before = present.team(role) if signed.version > 1 else None
    old = before.targets if before else {}
    odd = sorted(path for path in signed.targets.keys() | old.keys() if signed.targets.get(path) != old.get(path))
    if odd:
        raise TrustError(
            f"{path} adds, changes or removes {odd[0]}: only a release may do that (sdx release sign). Do not sign it.",
            "targets_changed",
        )
    return TrustFile(path, IMAGE, role, metadata, ((f"targets {delegator.version}", delegator, role),), before, True)


def _newest(role: str, kind: type[T], path: Path, version: int, present: Callable[[], T]) -> T:
    """The newest delegator: among the file's neighbours, or (beyond a ceremony) the one of today."""
    near = [signed for signed in _neighbours(path, role) if isinstance(signed, kind)]
    newest = max(near, key=lambda signed: signed.version, default=None)
    if newest is not None and version == 1 and newest.version == 1:
        return newest
    today = present()
    return newest if newest is not None and newest.version == today.version + 1 else today


def _neighbours(path: Path, role: str) -> Iterable[Root | Targets]:
    for each in sorted(path.absolute().parent.glob(f"*.{role}.json")):
        named = _NAME.match(each.name)
        if named is not None and named["role"] == role and named["repository"] != DIRECTOR:
            yield read(each).signed


def _keyids(delegator: Root | Targets, role: str) -> list[str]:
    if isinstance(delegator, Root):
        return delegator.roles[role].keyids
    roles = delegator.delegations.roles if delegator.delegations else None
    return roles[role].keyids if roles and role in roles else []


def _delegation_keys(delegator: Targets) -> dict[str, Key]:
    return delegator.delegations.keys if delegator.delegations else {}

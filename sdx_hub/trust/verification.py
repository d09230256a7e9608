"""What the hub checks before it stores metadata that people signed: whatever a client would refuse, and our own rules.

For each file, in this order:

1. It is metadata of the right type, and no larger than clients read.
2. Its version is the next one (TUF specification 1.0.34, 5.3.5 for the root; a gap would cut off slow clients).
3. The threshold of its delegator's keys signed it; a root also by its own keys (5.3.4).
4. It has not expired, and does not last longer than its role may.
5. It says only what its role may say: every key under its own digest and once, delegations that end at the team and
   stay in the team's paths, targets in these paths.

Each verifier returns a `Verified`, or raises.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

from msgspec import Struct
from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import DelegatedRole, Metadata, Root, Targets
from tuf.api.serialization import SerializationError

from firmware_schemas.errors import InvalidName
from firmware_schemas.ids import check_name
from firmware_schemas.limits import MAX_ROOT_BYTES
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TrustError
from sdx_hub.trust import keys, rotation
from sdx_hub.trust.ceremony import FLEET_CONFIG, RESERVED_TEAMS, ROOT_LIFE, TARGETS_LIFE, TEAM_LIFE, TEAM_PREFIX

T = TypeVar("T", Root, Targets)


class Incoming(Struct, frozen=True):
    """A file as it came, parsed, and not trusted.

    Attributes:
        payload: What its signatures must be over; made once, because that takes long where there are many targets.
    """

    raw: bytes
    metadata: Metadata[Any]
    payload: bytes

    @property
    def version(self) -> int:
        return int(self.metadata.signed.version)


class Verified(Struct, Generic[T], frozen=True):
    """Metadata that a verifier of this module let through.

    Attributes:
        raw: The bytes to store and serve.
    """

    role: str
    signed: T
    raw: bytes


def read(raw: bytes, origin: str) -> Incoming:
    """Parse a file.

    Raises:
        TrustError: It is no TUF metadata (code `metadata_invalid`).
    """
    metadata = rotation.parse(raw, origin)
    try:
        payload = metadata.signed_bytes
    except SerializationError as error:  # a fraction, or half of a character
        raise TrustError(f"{origin} holds values that cannot be signed.", "metadata_invalid") from error
    if type(metadata.signed.version) is not int:
        raise TrustError(f"{origin} has a version that is no whole number.", "metadata_invalid")
    return Incoming(raw, metadata, payload)


def verify_root(repository: str, current: Root | None, incoming: Incoming, now: datetime) -> Verified[Root]:
    """Verify the next root; the very first one (`current` is None) only by itself.

    Raises:
        TrustError: `metadata_invalid`, `below_threshold`, `expiry_refused`, `key_twice`.
        ConflictError: It is not the next version (code `metadata_outdated`).
    """
    name = f"{repository}/root"
    root = _signed(incoming, Root, name)
    if len(incoming.raw) > MAX_ROOT_BYTES:
        raise TrustError(f"{name} has {len(incoming.raw)} bytes: no client reads so many.", "metadata_invalid")
    _check_version(name, current, root)
    if current is not None:
        require_threshold(f"root {current.version}", current, "root", incoming, name=name)
    require_threshold(f"root {root.version}", root, "root", incoming, name=name)
    rotation.check_expiry(root, ROOT_LIFE, now)
    if not root.consistent_snapshot:
        raise TrustError(f"{name} switches consistent snapshots off.", "metadata_invalid")
    for role, held in root.roles.items():
        _check_keys(f"{name}: {role}", held.keyids, root.keys)
    return Verified("root", root, incoming.raw)


def verify_targets(root: Root, current: Targets | None, incoming: Incoming, now: datetime) -> Verified[Targets]:
    """Verify the next top targets role of the image repository: delegations, and nothing else.

    Raises:
        TrustError: `metadata_invalid`, `below_threshold`, `expiry_refused`, `key_twice`, `delegation_refused`.
        ConflictError: It is not the next version (code `metadata_outdated`).
    """
    name = "image/targets"
    targets = _signed(incoming, Targets, name)
    _check_version(name, current, targets)
    require_threshold(f"root {root.version}", root, "targets", incoming, name=name)
    rotation.check_expiry(targets, TARGETS_LIFE, now)
    if targets.targets:
        raise TrustError(f"{name} only delegates; targets belong to a team.", "delegation_refused")
    for role in delegated_roles(targets).values():
        _check_delegation(role)
        _check_keys(f"{name}: {role.name}", role.keyids, _known_keys(targets))
    return Verified("targets", targets, incoming.raw)


def verify_team(
    delegator: Targets, role: str, current: Targets | None, incoming: Incoming, now: datetime
) -> Verified[Targets]:
    """Verify the next metadata of a team (or of `fleet-config`).

    Raises:
        NotFound: Nobody delegates to it (code `role_unknown`).
        TrustError: `metadata_invalid`, `below_threshold`, `expiry_refused`, `targets_changed`.
        ConflictError: It is not the next version (code `metadata_outdated`).
    """
    name = f"image/{role}"
    signed = _signed(incoming, Targets, name)
    delegated = delegated_roles(delegator).get(role)
    if delegated is None:
        raise NotFound(f"The targets role does not delegate to {role[:80]!r}.", "role_unknown")
    _check_version(name, current, signed)
    require_threshold(f"targets {delegator.version}", delegator, role, incoming, name=name)
    rotation.check_expiry(signed, TEAM_LIFE, now)
    outside = [path for path in signed.targets if not delegated.is_delegated_path(path)]
    if outside or signed.delegations is not None:
        what = outside[0] if outside else "a delegation"
        raise TrustError(f"{name} may not publish {what}.", "targets_changed")
    return Verified(role, signed, incoming.raw)


def require_threshold(
    by: str, delegator: Root | Targets, role: str, incoming: Incoming, *, name: str, code: str = "below_threshold"
) -> None:
    """Return if the threshold of the delegator's keys signed the file.

    Raises:
        TrustError: It did not (with `code`); says whose signatures are there and whose are missing.
    """
    result = delegator.get_verification_result(role, incoming.payload, incoming.metadata.signatures)
    if result.verified:
        return
    signed_by = sorted(keys.owner_of(key) for key in result.signed.values())
    missing = sorted(keys.owner_of(key) for key in result.unsigned.values())
    raise TrustError(
        f"{name} version {incoming.version} has {len(signed_by)} of {result.threshold} valid signatures by the keys of "
        f"{by} (signed: {', '.join(signed_by) or 'nobody'}; could sign: {', '.join(missing) or 'nobody'}). Have it "
        "signed: sdx keys sign.",
        code,
        role=name,
        threshold=result.threshold,
        signed_by=signed_by,
        missing=missing,
    )


def identify_team(delegator: Targets, current: Mapping[str, Targets], incoming: Incoming, wanted: Iterable[str]) -> str:
    """Which delegated role a file is of: TUF metadata does not say it, so its signatures and its content must.

    Args:
        delegator: The newest top targets role.
        current: The newest metadata of each role.
        incoming: Metadata of type targets.
        wanted: Roles that have none, or none that counts: among several that fit, they come first.

    Raises:
        TrustError: No role's threshold signed it (code `below_threshold`).
        BadInput: It could be of several roles (code `role_ambiguous`).
    """
    signed = _signed(incoming, Targets, "The file")
    found = {role: _count(delegator, role, incoming) for role in delegated_roles(delegator)}
    met = [role for role, held in delegated_roles(delegator).items() if found[role] >= held.threshold]
    if not met:
        closest = max(found, key=lambda role: found[role], default="")
        if closest:
            require_threshold(f"targets {delegator.version}", delegator, closest, incoming, name=f"image/{closest}")
        raise TrustError("The targets role delegates to nobody.", "metadata_invalid")
    fitting = [role for role in met if _follows(current.get(role), signed)]
    if len(fitting) > 1:
        needed = [role for role in wanted if role in fitting]
        if not needed:
            raise BadInput(
                f"The same people sign for {', '.join(fitting)}, and this file could be of each. Push it together "
                "with a release: sdx release publish.",
                "role_ambiguous",
            )
        fitting = needed
    return fitting[0] if fitting else met[0]


def delegated_roles(targets: Targets) -> Mapping[str, DelegatedRole]:
    """The roles that the top targets role delegates to.

    Raises:
        TrustError: There are none (code `metadata_invalid`).
    """
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustError("The top targets role delegates to nobody.", "metadata_invalid")
    return targets.delegations.roles


def _count(delegator: Targets, role: str, incoming: Incoming) -> int:
    return len(delegator.get_verification_result(role, incoming.payload, incoming.metadata.signatures).signed)


def _follows(current: Targets | None, signed: Targets) -> bool:
    if current is None:
        return signed.version == 1 and not signed.targets
    return signed.version == current.version + 1 and signed.targets.keys() <= current.targets.keys()


def _signed(incoming: Incoming, kind: type[T], name: str) -> T:
    signed = incoming.metadata.signed
    if not isinstance(signed, kind):
        raise TrustError(f"{name} is {signed.type} metadata, where {kind.type} is expected.", "metadata_invalid")
    return signed


def _check_version(name: str, current: Root | Targets | None, signed: Root | Targets) -> None:
    newest = current.version if current is not None else 0
    if signed.version != newest + 1:
        raise ConflictError(
            f"{name} is at version {newest} here, so the next one is {newest + 1}, not {signed.version}. Fetch the "
            "newest, make the change on top of it, and have it signed anew.",
            "metadata_outdated",
            role=name,
            current_version=newest,
        )


def _check_delegation(role: DelegatedRole) -> None:
    """A team's paths are its own, so that no team's keys reach what another one published."""
    prefix = role.name.removeprefix(TEAM_PREFIX)
    own = role.paths and all(path.split("/")[0] == prefix and path.count("/") == 3 for path in role.paths)
    if not _names_team(role.name, prefix) or not role.terminating or not own:
        raise TrustError(
            f"The delegation to {role.name[:80]!r} must be named team-NAME, be terminating, and be limited to "
            f"{prefix[:64]}/*/*/*.",
            "delegation_refused",
        )


def _names_team(role: str, prefix: str) -> bool:
    if role == FLEET_CONFIG:
        return True
    try:
        check_name(prefix, "team")
    except InvalidName:
        return False
    return role.startswith(TEAM_PREFIX) and prefix not in RESERVED_TEAMS


def _check_keys(name: str, keyids: Iterable[str], known: Mapping[str, Key]) -> None:
    """A key id is the digest of its key, and no key is in a role twice: one person would reach the threshold alone."""
    seen: set[str] = set()
    for keyid in keyids:
        key = known.get(keyid)
        if not isinstance(key, SSlibKey) or _standard(key) != keyid:
            raise TrustError(f"{name} has the key {keyid[:12]}... under another id than its digest.", "key_twice")
        material = json.dumps(key.keyval, sort_keys=True)
        if material in seen:
            raise TrustError(f"{name} has one key twice.", "key_twice")
        seen.add(material)


def _standard(key: SSlibKey) -> str:
    try:
        return keys.standard_keyid(key)
    except Exception:  # the library raises whatever the hostile key provokes
        return ""


def _known_keys(targets: Targets) -> Mapping[str, Key]:
    return targets.delegations.keys if targets.delegations is not None else {}

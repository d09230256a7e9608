"""Changing who may sign: the next version of a root or of the top targets role, and checking it before it is signed.

Everything here is pure: metadata in, unsigned metadata out. Several people then sign the same bytes, each on their own
machine (`sdx keys sign`), and anybody pushes the result: the hub and every client check the thresholds by themselves.

TUF specification 1.0.34: a new root is signed by the thresholds of the old and of the new root (5.3.4); a fast-forward
attack is recovered from by replacing the snapshot and timestamp keys in a new root (5.3.11).
"""

import copy
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct
from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from firmware_schemas.ids import check_name
from firmware_schemas.limits import MAX_TARGETS_BYTES
from sdx_hub.domain.errors import BadInput, NotFound, TrustError
from sdx_hub.trust import ceremony, keys
from sdx_hub.trust.ceremony import FLEET_CONFIG, RESERVED_TEAMS, ROOT_LIFE, TARGETS_LIFE, TEAM_LIFE, TEAM_PREFIX, Quorum
from sdx_hub.trust.keys import PublicKey

ONLINE = frozenset({"snapshot", "timestamp"})
DIRECTOR_ONLINE = ONLINE | {"targets"}
"""Roles that the hub signs for with nobody watching: one key is enough there."""
ROOT_ROLES = frozenset({"root", "targets"}) | ONLINE


class KeyChange(Struct, frozen=True):
    """What to change about the keys of one role.

    Attributes:
        drop: Key ids, starts of key ids (8 characters or more), or owners.
        threshold: None leaves it.
    """

    add: tuple[PublicKey, ...] = ()
    drop: tuple[str, ...] = ()
    threshold: int | None = None

    def __bool__(self) -> bool:
        return bool(self.add or self.drop or self.threshold is not None)


class SignatureState(Struct, frozen=True):
    """How far the signatures of one file are, by one set of keys.

    Attributes:
        by: What the keys are called, for people: `root 3`, `targets`.
        signed, missing: Owners.
    """

    by: str
    threshold: int
    signed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def met(self) -> bool:
        return len(self.signed) >= self.threshold


def parse(raw: bytes, origin: str) -> Metadata[Any]:
    """Parse TUF metadata without trusting it.

    Raises:
        TrustError: It is none, or larger than a client would read (code `metadata_invalid`).
    """
    if len(raw) > MAX_TARGETS_BYTES:
        raise TrustError(f"{origin} has {len(raw)} bytes: no client reads so much metadata.", "metadata_invalid")
    try:
        return Metadata[Any].from_bytes(raw)
    except (DeserializationError, RecursionError) as error:
        raise TrustError(f"{origin} is not TUF metadata: {error}.", "metadata_invalid") from error


def is_delegated(role: str) -> bool:
    return role == FLEET_CONFIG or role.startswith(TEAM_PREFIX)


def next_root(
    current: Root, role: str, change: KeyChange, now: datetime, *, online: Collection[str] = ONLINE
) -> Metadata[Root]:
    """The next root, unsigned: with other keys for one role, or only with a new expiry.

    Args:
        current: The newest root.
        role: `root`, `targets`, `snapshot` or `timestamp`.
        change: May be empty.
        now: Start of the new expiry, UTC.
        online: Roles of the hub itself; `DIRECTOR_ONLINE` for a root of the director.

    Raises:
        NotFound: A key to drop is not in the role (code `key_unknown`), or the role does not exist (`role_unknown`).
        BadInput: The new quorum is refused (code `ceremony_threshold`).
        TrustError: A key or person is in the role twice (code `key_twice`).
    """
    root = copy.deepcopy(current)
    if role not in ROOT_ROLES or role not in root.roles:
        raise NotFound(f"The root has no role {role}.", "role_unknown")
    held = root.roles[role]
    for keyid in _to_drop(change, {keyid: root.keys[keyid] for keyid in held.keyids}, role):
        root.revoke_key(keyid, role)
    for public in change.add:
        _check_added(public, role, held.keyids, root.keys)
        root.add_key(public.key, role)
    if change.threshold is not None:
        held.threshold = change.threshold
    _check(role, held.threshold, [root.keys[keyid] for keyid in held.keyids], online)
    root.version += 1
    root.expires = _utc(now) + ROOT_LIFE
    return Metadata(root)


def next_targets(current: Targets, role: str, change: KeyChange, now: datetime) -> Metadata[Targets]:
    """The next top targets role, unsigned: with other keys for one delegated role, or with a new team.

    Args:
        current: The newest top targets role.
        role: `team-NAME` or `fleet-config`. A team that does not exist yet is delegated to at the end of the list.
        change: Empty for a new expiry only.
        now: Start of the new expiry, UTC.

    Raises:
        NotFound, BadInput, TrustError: As for `next_root`.
    """
    targets = copy.deepcopy(current)
    if targets.delegations is None or targets.delegations.roles is None:
        raise TrustError("The top targets role delegates to nobody.", "metadata_invalid")
    roles, all_keys = targets.delegations.roles, targets.delegations.keys
    if change:
        if role not in roles:
            _check_new_team(role, change)
            roles[role] = ceremony.delegated_role(role, change.threshold or 2, ())
        held = roles[role]
        dropped = set(_to_drop(change, {keyid: all_keys[keyid] for keyid in held.keyids}, role))
        held.keyids = [keyid for keyid in held.keyids if keyid not in dropped]
        for public in change.add:
            _check_added(public, role, held.keyids, all_keys)
            all_keys[public.keyid] = public.key
            held.keyids.append(public.keyid)
        if change.threshold is not None:
            held.threshold = change.threshold
        _check(role, held.threshold, [all_keys[keyid] for keyid in held.keyids])
        used = {keyid for each in roles.values() for keyid in each.keyids}
        for keyid in set(all_keys) - used:
            del all_keys[keyid]
    targets.version += 1
    targets.expires = _utc(now) + TARGETS_LIFE
    return Metadata(targets)


def refreshed_team(current: Targets, now: datetime) -> Metadata[Targets]:
    """A delegated role's own next version: same targets, new expiry, unsigned."""
    targets = copy.deepcopy(current)
    targets.version += 1
    targets.expires = _utc(now) + TEAM_LIFE
    return Metadata(targets)


def first_team(now: datetime) -> Metadata[Targets]:
    """The first version of a new team's role, unsigned and empty."""
    return Metadata(Targets(expires=_utc(now) + TEAM_LIFE))


def signature_state(by: str, delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> SignatureState:
    """Who has signed `metadata` as `role`, by the keys that `delegator` lists.

    Raises:
        NotFound: The delegator has no such role (code `role_unknown`).
    """
    try:
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    except ValueError as error:
        raise NotFound(f"{by} does not delegate to {role}.", "role_unknown") from error
    return SignatureState(
        by,
        result.threshold,
        tuple(sorted(keys.owner_of(key) for key in result.signed.values())),
        tuple(sorted(keys.owner_of(key) for key in result.unsigned.values())),
    )


def describe_change(old: Root | Targets | None, new: Root | Targets) -> list[str]:
    """What a signer agrees to, one sentence a line: keys, thresholds and delegations that differ.

    Args:
        old: None where there is nothing to compare with; then everything is listed.
        new: What is going to be signed.
    """
    lines = []
    before, after = _roles(old), _roles(new)
    for role in sorted(before.keys() | after.keys()):
        was, is_now = before.get(role), after.get(role)
        if is_now is None:
            lines.append(f"{role}: no longer delegated to")
        elif was is None:
            lines.append(f"{role}: {is_now[0]} of {len(is_now[1])}: {', '.join(sorted(is_now[1].values()))}")
        else:
            lines += [f"{role}: - {was[1][keyid]} ({keyid[:12]})" for keyid in sorted(was[1].keys() - is_now[1].keys())]
            lines += [
                f"{role}: + {is_now[1][keyid]} ({keyid[:12]})" for keyid in sorted(is_now[1].keys() - was[1].keys())
            ]
            if was[0] != is_now[0]:
                lines.append(f"{role}: threshold {was[0]} -> {is_now[0]}")
            if was[2] != is_now[2]:
                lines.append(f"{role}: paths {was[2]} -> {is_now[2]}")
    if old is not None:
        lines.append(f"version {old.version} -> {new.version}")
        lines.append(f"expires {old.expires:%Y-%m-%d} -> {new.expires:%Y-%m-%d}")
    else:
        lines.append(f"version {new.version}, expires {new.expires:%Y-%m-%d}")
    return lines


def check_expiry(signed: Root | Targets, life: timedelta, now: datetime) -> None:
    """Return if a person should put a signature under this expiry.

    Raises:
        TrustError: It has expired, or lasts longer than a role of this kind may (code `expiry_refused`).
    """
    if signed.expires <= now:
        raise TrustError(f"It expired on {signed.expires:%Y-%m-%d}: make it anew.", "expiry_refused")
    if signed.expires > now + life + timedelta(days=1):
        raise TrustError(
            f"It lasts until {signed.expires:%Y-%m-%d}, longer than the {life.days} days that the role may: ask who "
            "made it.",
            "expiry_refused",
        )


def _roles(signed: Root | Targets | None) -> dict[str, tuple[int, dict[str, str], list[str]]]:
    if signed is None:
        return {}
    if isinstance(signed, Root):
        return {
            name: (role.threshold, {keyid: keys.owner_of(signed.keys[keyid]) for keyid in role.keyids}, [])
            for name, role in signed.roles.items()
        }
    if signed.delegations is None or signed.delegations.roles is None:
        return {}
    known = signed.delegations.keys
    return {
        name: (role.threshold, {keyid: keys.owner_of(known[keyid]) for keyid in role.keyids}, role.paths or [])
        for name, role in signed.delegations.roles.items()
    }


def _check_new_team(role: str, change: KeyChange) -> None:
    if not role.startswith(TEAM_PREFIX):
        raise NotFound(f"There is no delegated role {role}; a new team is named team-NAME.", "role_unknown")
    name = check_name(role.removeprefix(TEAM_PREFIX), "team")
    if name in RESERVED_TEAMS:
        raise BadInput(f"No team can be named {name}: that is a role of its own.", "team_name")
    if change.drop:
        raise NotFound(f"There is no role {role} to drop a key from.", "role_unknown")


def _to_drop(change: KeyChange, held: dict[str, Key], role: str) -> list[str]:
    found: list[str] = []
    for name in change.drop:
        matches = [
            keyid
            for keyid, key in held.items()
            if name in {keyid, keys.owner_of(key)} or (len(name) >= 8 and keyid.startswith(name))
        ]
        if len(matches) != 1:
            owners = ", ".join(sorted(keys.owner_of(key) for key in held.values()))
            raise NotFound(f"{name!r} names {len(matches)} keys of {role}, which has: {owners}.", "key_unknown")
        found += matches
    return list(dict.fromkeys(found))


def _check_added(public: PublicKey, role: str, held: Sequence[str], known: Mapping[str, Key]) -> None:
    """Refuse a key that is there: adding it again under another name would rename its holder in silence."""
    present = known.get(public.keyid)
    if public.keyid in held or (present is not None and keys.owner_of(present) != public.owner):
        owner = keys.owner_of(present) if present is not None else public.owner
        raise TrustError(
            f"The key that {public.owner} brings for {role} is there already: it is {owner}'s. Each person makes a key "
            "of their own.",
            "key_twice",
        )


def _check(role: str, threshold: int, held: Sequence[Key], online: Collection[str] = ONLINE) -> None:
    if role in online:
        if not 1 <= threshold <= len(held):
            raise BadInput(f"{role} would have {len(held)} keys and a threshold of {threshold}.", "ceremony_threshold")
    else:
        ceremony.check_quorum(Quorum(threshold, len(held)), role)
    material = [json.dumps(key.keyval, sort_keys=True) for key in held]
    if len(set(material)) != len(material):
        raise TrustError(f"{role} would have one key twice.", "key_twice")
    if role not in online:
        keys.check_distinct([PublicKey(keys.owner_of(key), key) for key in held if isinstance(key, SSlibKey)], role)


def _utc(now: datetime) -> datetime:
    return now.astimezone(UTC)

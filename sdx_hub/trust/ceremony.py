"""The ceremony: the first root, the first delegations, and every key, in one folder.

    DIR/ceremony.json            what was made, and whether one person made it all
    DIR/keys/OWNER.{key,pub}     keys of people; the private ones encrypted (hand them out, then delete them here)
    DIR/online/*.key, signers.json   the hub's own keys, plain: the hub signs with nobody watching
    DIR/image/1.*.json, DIR/director/1.root.json   the signed metadata

Roles and expiries are those of `trust.md`; the wire format is TUF 1.0.34 as python-tuf writes it.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

from firmware_schemas.ids import check_name
from sdx_hub.domain.errors import BadInput, ConflictError
from sdx_hub.trust import keys
from sdx_hub.trust.keys import PublicKey

ROOT_LIFE = timedelta(days=365)
TARGETS_LIFE = timedelta(days=365)
TEAM_LIFE = timedelta(days=180)
FLEET_CONFIG = "fleet-config"
TEAM_PREFIX = "team-"
ONLINE_ROLES: dict[str, tuple[str, ...]] = {
    "image": ("snapshot", "timestamp"),
    "director": ("targets", "snapshot", "timestamp"),
}
MAX_KEYS_PER_ROLE = 16
RESERVED_TEAMS = frozenset({FLEET_CONFIG, "root", "targets", "snapshot", "timestamp", "director", "director-root"})
"""Their paths or their generated keys would have the names of another role's."""

_QUORUM = re.compile(r"([0-9]{1,2})/([0-9]{1,2})")


class Quorum(Struct, frozen=True):
    """`threshold` signatures of `size` people."""

    threshold: int
    size: int

    def __str__(self) -> str:
        return f"{self.threshold}/{self.size}"


class CeremonyPlan(Struct, frozen=True):
    """What to make.

    Attributes:
        teams: Team name (without `team-`) to its quorum.
        brought: Role (`root`, `targets`, `director`, `fleet-config`, `team-NAME`) to public keys that their holders
            made elsewhere; keys are generated only for the rest of the quorum.
    """

    teams: Mapping[str, Quorum]
    root: Quorum = Quorum(3, 5)
    targets: Quorum = Quorum(2, 3)
    director: Quorum = Quorum(3, 5)
    fleet_config: Quorum = Quorum(2, 3)
    brought: Mapping[str, Sequence[PublicKey]] = {}

    def quorums(self) -> dict[str, Quorum]:
        fixed = {
            "root": self.root,
            "targets": self.targets,
            "director": self.director,
            FLEET_CONFIG: self.fleet_config,
        }
        return fixed | {TEAM_PREFIX + name: quorum for name, quorum in self.teams.items()}


class CeremonyResult(Struct, frozen=True):
    """What was made.

    Attributes:
        one_person: Roles whose threshold the keys of this one machine reach.
        missing: Metadata file to the number of signatures that the holders of brought keys still have to add.
    """

    folder: Path
    image_root_sha256: str
    director_root_sha256: str
    one_person: tuple[str, ...]
    missing: dict[str, int]
    owners: dict[str, tuple[str, ...]]


class _Holders:
    """Public keys of each role, and the private ones that were generated here."""

    def __init__(self) -> None:
        self.public: dict[str, list[PublicKey]] = {}
        self.private: dict[str, tuple[Ed25519PrivateKey, PublicKey]] = {}

    def sign(self, metadata: Metadata[Any], role: str) -> int:
        """Sign with every key of the role that is here; return the number of signatures."""
        for public in self.public[role]:
            held = self.private.get(public.keyid)
            if held is not None:
                metadata.sign(CryptoSigner(held[0], public.key), append=True)
        return len(metadata.signatures)


def parse_quorum(text: str) -> Quorum:
    """Parse `T/N`.

    Raises:
        BadInput: It is no quorum, or one that a single lost key ends or a single person fills (code
            `ceremony_threshold`).
    """
    match = _QUORUM.fullmatch(text)
    if match is None:
        raise BadInput(f"{text!r} is no quorum: write THRESHOLD/KEYS, for instance 2/3.", "ceremony_threshold")
    quorum = Quorum(int(match[1]), int(match[2]))
    check_quorum(quorum, "the role")
    return quorum


def check_quorum(quorum: Quorum, role: str) -> None:
    """Return if a role of people may have this quorum.

    Raises:
        BadInput: The threshold is 0, above the number of keys, or equal to it (code `ceremony_threshold`).
    """
    if not 1 <= quorum.threshold <= quorum.size <= MAX_KEYS_PER_ROLE:
        raise BadInput(
            f"{quorum} cannot be the quorum of {role}: the threshold is between 1 and the number of keys, and there "
            f"are at most {MAX_KEYS_PER_ROLE} keys.",
            "ceremony_threshold",
        )
    if quorum.threshold == quorum.size:
        raise BadInput(
            f"{quorum} would let one lost key end {role} for ever: take more keys than the threshold, for instance "
            f"{quorum.threshold}/{quorum.size + 1}.",
            "ceremony_threshold",
        )


def check_plan(plan: CeremonyPlan) -> None:
    """Return if the plan can be carried out.

    Raises:
        BadInput: A quorum is refused (`ceremony_threshold`), or there are too many brought keys or a role that is
            unknown (`ceremony_keys`).
        TrustError: Somebody holds two keys of one role (`key_twice`).
        InvalidName: A team's name.
    """
    quorums = plan.quorums()
    for name in plan.teams:
        check_name(name, "team")
        if name in RESERVED_TEAMS:
            raise BadInput(f"No team can be named {name}: that is a role of its own.", "team_name")
    for role, quorum in quorums.items():
        check_quorum(quorum, role)
    for role, brought in plan.brought.items():
        if role not in quorums:
            raise BadInput(f"There is no role {role} in this ceremony.", "ceremony_keys")
        if len(brought) > quorums[role].size:
            raise BadInput(
                f"{len(brought)} keys were brought for {role}, but its quorum is {quorums[role]}.", "ceremony_keys"
            )
        keys.check_distinct(brought, role)


def hold(plan: CeremonyPlan, folder: Path, passphrase: str, now: datetime) -> CeremonyResult:
    """Make the folder. It appears whole or not at all.

    Args:
        plan: What to make.
        folder: Must not exist, or be empty.
        passphrase: For every generated key of a person.
        now: Start of every expiry, UTC.

    Raises:
        BadInput, TrustError, InvalidName: See `check_plan`; `passphrase_too_short`.
        ConflictError: The folder has something in it (code `key_exists`).
    """
    check_plan(plan)
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(
            f"{folder} is not empty, and keys are never overwritten: choose another folder.", "key_exists"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        result = _make(plan, scratch, passphrase, now)
        scratch.replace(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    _sync_folder(folder.parent)
    return msgspec.structs.replace(result, folder=folder)


def _make(plan: CeremonyPlan, scratch: Path, passphrase: str, now: datetime) -> CeremonyResult:
    holders = _gather(plan, scratch, passphrase)
    online = _make_online(scratch / "online")
    image, director = scratch / "image", scratch / "director"
    image.mkdir(mode=0o755)
    director.mkdir(mode=0o755)
    quorums = plan.quorums()
    image_root = _root(
        now,
        {"root": (quorums["root"], holders.public["root"]), "targets": (quorums["targets"], holders.public["targets"])},
        online["image"],
    )
    director_root = _root(now, {"root": (quorums["director"], holders.public["director"])}, online["director"])
    delegated = [FLEET_CONFIG, *(TEAM_PREFIX + name for name in plan.teams)]
    targets = Targets(
        expires=now + TARGETS_LIFE,
        delegations=first_delegations({r: (quorums[r], holders.public[r]) for r in delegated}),
    )
    documents: list[tuple[Path, str, Root | Targets]] = [
        (image / "1.root.json", "root", image_root),
        (director / "1.root.json", "director", director_root),
        (image / "1.targets.json", "targets", targets),
        *((image / f"1.{role}.json", role, Targets(expires=now + TEAM_LIFE)) for role in delegated),
    ]
    digests: dict[str, str] = {}
    missing: dict[str, int] = {}
    for path, role, signed in documents:
        metadata: Metadata[Any] = Metadata(signed)
        count = holders.sign(metadata, role)
        if count < quorums[role].threshold:
            missing[f"{path.parent.name}/{path.name}"] = quorums[role].threshold - count
        raw = metadata.to_bytes()
        keys.write_new(path, raw, 0o644)
        digests[f"{path.parent.name}/{path.name}"] = _sha256(raw)
    owners = {role: tuple(public.owner for public in publics) for role, publics in holders.public.items()}
    one_person = tuple(
        role
        for role, publics in holders.public.items()
        if sum(public.keyid in holders.private for public in publics) >= quorums[role].threshold
    )
    summary = {
        "version": 1,
        "one_person": bool(one_person),
        "roles": {
            role: {"threshold": quorums[role].threshold, "owners": list(names), "one_person": role in one_person}
            for role, names in owners.items()
        },
    }
    keys.write_new(scratch / "ceremony.json", (json.dumps(summary, indent=2, sort_keys=True) + "\n").encode(), 0o644)
    return CeremonyResult(
        scratch, digests["image/1.root.json"], digests["director/1.root.json"], one_person, missing, owners
    )


def _gather(plan: CeremonyPlan, scratch: Path, passphrase: str) -> _Holders:
    holders = _Holders()
    folder = scratch / "keys"
    folder.mkdir(mode=0o700)
    for role, quorum in plan.quorums().items():
        brought = list(plan.brought.get(role, ()))
        generated = []
        for number in range(1, quorum.size - len(brought) + 1):
            pair = keys.generate(f"{_owner_prefix(role)}-{number}")
            holders.private[pair[1].keyid] = pair
            generated.append(pair[1])
        holders.public[role] = brought + generated
        keys.check_distinct(holders.public[role], role)
    if holders.private:
        keys.check_passphrase(passphrase)
    pairs = list(holders.private.values())
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # scrypt is slow on purpose and releases the GIL
        sealed = pool.map(lambda pair: keys.encrypted_pem(pair[0], passphrase), pairs)
        for (_, public), pem in zip(pairs, sealed, strict=True):
            keys.write_new(folder / f"{public.owner}.key", pem, 0o600)
            keys.write_public(public, folder / f"{public.owner}.pub")
    return holders


def _owner_prefix(role: str) -> str:
    return "director-root" if role == "director" else role.removeprefix(TEAM_PREFIX)


def _make_online(folder: Path) -> dict[str, dict[str, SSlibKey]]:
    folder.mkdir(mode=0o700)
    made: dict[str, dict[str, SSlibKey]] = {}
    signers: dict[str, Any] = {}
    for repository, roles in ONLINE_ROLES.items():
        made[repository] = {}
        for role in roles:
            private = Ed25519PrivateKey.generate()
            public = SSlibKey.from_crypto(private.public_key())
            name = f"{repository}-{role}.key"
            keys.write_new(folder / name, keys.plain_pem(private), 0o600)
            made[repository][role] = public
            signers[f"{repository}/{role}"] = {"uri": f"file2:{name}", "keyid": public.keyid, "key": public.to_dict()}
    keys.write_new(folder / "signers.json", (json.dumps(signers, indent=2, sort_keys=True) + "\n").encode(), 0o600)
    return made


def _root(
    now: datetime, people: Mapping[str, tuple[Quorum, Sequence[PublicKey]]], online: Mapping[str, SSlibKey]
) -> Root:
    root = Root(expires=now + ROOT_LIFE, consistent_snapshot=True)
    for role, (quorum, publics) in people.items():
        root.roles[role] = Role([], quorum.threshold)
        for public in publics:
            root.add_key(public.key, role)
    for role, key in online.items():
        root.add_key(key, role)
    return root


def first_delegations(roles: Mapping[str, tuple[Quorum, Sequence[PublicKey]]]) -> Delegations:
    """The delegations of the top targets role: terminating, and each limited to its own paths."""
    return Delegations(
        {public.keyid: public.key for _, publics in roles.values() for public in publics},
        {role: delegated_role(role, quorum.threshold, publics) for role, (quorum, publics) in roles.items()},
    )


def delegated_role(role: str, threshold: int, publics: Sequence[PublicKey]) -> DelegatedRole:
    prefix = role.removeprefix(TEAM_PREFIX)
    return DelegatedRole(role, [public.keyid for public in publics], threshold, True, [f"{prefix}/*/*/*"])


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

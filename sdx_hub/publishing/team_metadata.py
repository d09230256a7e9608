"""The metadata that publishes a release: the next version of a team's targets role.

A release is published when the next version of its team's role (the current targets, without those of yanked
releases, plus the release's own) is signed by the team's threshold. Everything here is pure; what it returns or raises
is what a person relies on before signing.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, TargetFile, Targets

from firmware_schemas.ids import release_id
from firmware_schemas.release import MANIFEST_NAME, ReleaseManifest, TargetCustom, target_path, targets_of
from sdx_hub.domain.errors import BadInput, ConflictError, TrustError
from sdx_hub.publishing.errors import BundleRefused
from sdx_hub.trust import rotation
from sdx_hub.trust.ceremony import TEAM_LIFE, TEAM_PREFIX
from sdx_hub.trust.keys import owner_of


class TeamView(Struct, frozen=True):
    """What the verified image repository says about one team.

    Attributes:
        delegator: The top targets role.
        current: The team's newest metadata.
    """

    role: str
    delegator: Targets
    current: Targets

    @property
    def team(self) -> str:
        return self.role.removeprefix(TEAM_PREFIX)


class Proposal(Struct, frozen=True):
    """A checked step from the team's current metadata to the next.

    Attributes:
        added: Paths of the release's targets.
        removed: Paths of yanked releases' targets.
        signed_by, missing: Owners.
    """

    role: str
    metadata: Metadata[Targets]
    base_version: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    threshold: int
    signed_by: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return len(self.signed_by) >= self.threshold

    @property
    def still_needed(self) -> int:
        return max(0, self.threshold - len(self.signed_by))


def role_of_key(delegator: Targets, keyid: str, wanted: str = "", known: str = "") -> str:
    """The delegated role that a key may sign for.

    Args:
        delegator: The top targets role.
        keyid: Of the signer.
        wanted: What the person asked for, if anything.
        known: What the file or the hub already says, if anything.

    Raises:
        TrustError: The key is in no such role (code `key_not_in_role`).
        BadInput: It is in several, and none was named (code `role_ambiguous`).
    """
    roles = _delegated(delegator)
    mine = [name for name, role in roles.items() if keyid in role.keyids]
    chosen = wanted or known
    if chosen and chosen not in mine:
        names = ", ".join(mine) or "none"
        raise TrustError(
            f"This key may not sign for {chosen}; its roles: {names}. Take another key, or have the delegation changed "
            "with `sdx keys rotate`.",
            "key_not_in_role",
        )
    if not mine:
        raise TrustError(
            "This key is in no team of the hub. Check the hub and the key, or have it added with `sdx keys rotate`.",
            "key_not_in_role",
        )
    if not chosen and len(mine) > 1:
        raise BadInput(f"This key may sign for {', '.join(mine)}: say which with --role.", "role_ambiguous")
    return chosen or mine[0]


def key_of(delegator: Targets, keyid: str) -> Key | None:
    return delegator.delegations.keys.get(keyid) if delegator.delegations else None


def counter_of(view: TeamView, product: str, version: str) -> int | None:
    """The release counter of a release in the team's metadata; None where it is not there."""
    target = view.current.targets.get(target_path(view.team, product, version, MANIFEST_NAME))
    try:
        return None if target is None else msgspec.convert(target.custom, TargetCustom).release_counter
    except msgspec.ValidationError:
        return None


def target_files(team: str, manifest: ReleaseManifest) -> dict[str, TargetFile]:
    """The release's targets as TUF metadata lists them."""
    return {
        target.path: TargetFile(
            target.length, {"sha256": target.sha256}, target.path, {"custom": _as_json(target.custom)}
        )
        for target in targets_of(team, manifest)
    }


def _as_json(custom: TargetCustom) -> Any:
    """The custom fields as they come out of a metadata file again: lists, where the struct has tuples."""
    return msgspec.json.decode(msgspec.json.encode(custom))


def next_version(
    view: TeamView, manifest: ReleaseManifest, yanked: Collection[str], now: datetime
) -> Metadata[Targets]:
    """The next, unsigned metadata that publishes a release.

    Args:
        view: The team today.
        manifest: Of the new release.
        yanked: Ids of yanked releases, whose targets leave.
        now: Start of the new expiry, UTC.

    Raises:
        ConflictError: The release is published already, with other content (code `release_exists`).
        TrustError: A target would be outside of the team's paths (code `targets_changed`).
    """
    added = target_files(view.team, manifest)
    kept = {path: file for path, file in view.current.targets.items() if release_of_path(path) not in yanked}
    clash = {path for path in kept if release_of_path(path) == release_id(manifest.product, manifest.version)}
    if clash:
        raise ConflictError(
            f"{release_id(manifest.product, manifest.version)} is published already. A release never changes: give the "
            "new one another version.",
            "release_exists",
        )
    role = _delegated(view.delegator)[view.role]
    outside = [path for path in added if not role.is_delegated_path(path)]
    if outside:
        raise TrustError(f"{view.role} may not publish {outside[0]}.", "targets_changed")
    following = rotation.refreshed_team(view.current, now)
    following.signed.targets = kept | added
    return following


def check(
    view: TeamView, metadata: Metadata[Any], manifest: ReleaseManifest, yanked: Collection[str], now: datetime
) -> Proposal:
    """Check that metadata is exactly the step that publishes `manifest`, before anybody signs or uploads it.

    Raises:
        ConflictError: It does not follow the current version (code `metadata_outdated`).
        TrustError: It adds, removes or changes anything else (`targets_changed`), a signature in it is wrong
            (`signature_invalid`), or its expiry is (`expiry_refused`).
    """
    signed = metadata.signed
    if not isinstance(signed, Targets):
        raise BundleRefused(f"The metadata is {signed.type}, not the targets of {view.role}.", "targets_changed")
    if signed.version != view.current.version + 1:
        raise ConflictError(
            f"{view.role} is at version {view.current.version} now, and these signatures are for version "
            f"{signed.version}: another release came first. Sign anew: sdx release sign.",
            "metadata_outdated",
            current_version=view.current.version,
        )
    expected = target_files(view.team, manifest)
    before, after = view.current.targets, signed.targets
    if {path: after.get(path) for path in expected} != expected:
        raise BundleRefused(
            "The metadata lists other targets for this release than its manifest. Do not sign it.", "targets_changed"
        )
    removed = before.keys() - after.keys()
    surplus = after.keys() - before.keys() - expected.keys()
    changed = {path for path in before.keys() & after.keys() if before[path] != after[path]}
    unexplained = {path for path in removed if release_of_path(path) not in yanked}
    if surplus or changed or unexplained:
        odd = sorted(surplus | changed | unexplained)[0]
        raise BundleRefused(
            f"The metadata does more than publish the release: {odd} is added, changed or removed. Do not sign it; ask "
            "who made it.",
            "targets_changed",
        )
    if signed.delegations is not None or signed.unrecognized_fields != view.current.unrecognized_fields:
        raise BundleRefused("The metadata delegates, or holds fields of its own. Do not sign it.", "targets_changed")
    rotation.check_expiry(signed, TEAM_LIFE, now)
    return _proposal(view, metadata, tuple(expected), tuple(sorted(removed)))


def _proposal(
    view: TeamView, metadata: Metadata[Targets], added: tuple[str, ...], removed: tuple[str, ...]
) -> Proposal:
    role = _delegated(view.delegator)[view.role]
    result = view.delegator.get_verification_result(view.role, metadata.signed_bytes, metadata.signatures)
    wrong = metadata.signatures.keys() - result.signed.keys()
    if wrong:
        keyid = sorted(wrong)[0]
        known = key_of(view.delegator, keyid) if keyid in role.keyids else None
        whose = f"by {owner_of(known)}" if known else f"with the unknown key {keyid[:12]}..."
        raise BundleRefused(
            f"The signature {whose} is not valid for {view.role}. Do not use this file; sign anew.", "signature_invalid"
        )
    return Proposal(
        view.role,
        metadata,
        view.current.version,
        added,
        removed,
        result.threshold,
        tuple(sorted(owner_of(key) for key in result.signed.values())),
        tuple(sorted(owner_of(key) for key in result.unsigned.values())),
    )


def release_of_path(path: str) -> str:
    """The release id that the target TEAM/PRODUCT/VERSION/NAME belongs to; empty where it has another form."""
    parts = path.split("/")
    return release_id(parts[1], parts[2]) if len(parts) == 4 else ""


def _delegated(delegator: Targets) -> Mapping[str, Any]:
    if delegator.delegations is None or delegator.delegations.roles is None:
        raise TrustError("The hub's targets role delegates to nobody.", "metadata_invalid")
    return delegator.delegations.roles

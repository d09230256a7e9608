"""What a person's signature on a release would go under, and putting it there.

Two people may prepare releases of one team at the same time, and several sign one release on machines of their own. So
there can be up to two proposals for a release: the one in the .sdx file and the one that waits on the hub. Which one
goes on:

1. One that does not follow the team's current version is rebased: a new one is made on the current version, and the
   old signatures, which are for other bytes, are dropped and named.
2. The same bytes in both: the signatures are joined.
3. Other bytes: the one with more signatures goes on. If it is a draw, the hub's: that is where the others will look.

Nothing that the hub says is believed: its proposal is checked like one from a file. Everything here is pure.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from msgspec import Struct
from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Targets
from tuf.api.serialization.json import JSONSerializer

from firmware_schemas.ids import release_id
from firmware_schemas.release import ReleaseManifest
from sdx_hub.domain.errors import ConflictError, HubError, TrustError
from sdx_hub.publishing import team_metadata
from sdx_hub.publishing.team_metadata import Proposal, TeamView
from sdx_hub.trust import rotation
from sdx_hub.trust.keys import owner_of

_SERIALIZER = JSONSerializer(compact=True)


class Step(Struct, frozen=True):
    """The proposal that a signature goes under, and how it came about.

    Attributes:
        rebased_from: Version of the team's metadata that the dropped signatures were for; None where none were.
        dropped: Owners (or starts of key ids) whose signatures do not count any more.
        notes: Sentences that the person should read.
        changed: It is other bytes, or has other signatures, than the file that it came from.
    """

    proposal: Proposal
    rebased_from: int | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    changed: bool = False

    @property
    def raw(self) -> bytes:
        return encode(self.proposal.metadata)


class _Candidate(Struct, frozen=True):
    proposal: Proposal | None
    outdated: int | None = None
    dropped: tuple[str, ...] = ()


def encode(metadata: Metadata[Any]) -> bytes:
    """Metadata as it travels; what is signed is its canonical form, whatever the spaces."""
    return bytes(metadata.to_bytes(_SERIALIZER))


def is_published(view: TeamView, manifest: ReleaseManifest) -> bool:
    """Whether the team's current, verified metadata lists exactly this release."""
    current = view.current.targets
    expected = team_metadata.target_files(view.team, manifest)
    return all(current.get(path) == file for path, file in expected.items())


def prepare(
    view: TeamView,
    manifest: ReleaseManifest,
    *,
    carried: bytes | None,
    waiting: bytes | None,
    yanked: Collection[str],
    now: datetime,
) -> Step:
    """Find out what a signature on this release goes under.

    Args:
        view: The team today, verified.
        manifest: Of the release.
        carried: Metadata in the .sdx file.
        waiting: Metadata that waits on the hub.
        yanked: Ids of yanked releases.
        now: UTC.

    Raises:
        ConflictError: It is published already (`already_published`, or `release_exists` with other content), or the
            signatures are for a version that the hub has not reached (`hub_behind`).
        TrustError: What the file carries does more than publish the release, or a signature in it is wrong.
    """
    if is_published(view, manifest):
        raise ConflictError(
            f"{release_id(manifest.product, manifest.version)} is published already, just like this.",
            "already_published",
        )
    notes: list[str] = []
    file = _candidate(view, manifest, carried, yanked, now)
    hub = _Candidate(None)
    try:
        hub = _candidate(view, manifest, waiting, yanked, now)
    except HubError as error:
        notes.append(f"The proposal that waits on the hub is not used: {error}")
    mine, theirs = file.proposal, hub.proposal
    if mine and theirs and mine.metadata.signed_bytes == theirs.metadata.signed_bytes:
        joined = {**theirs.metadata.signatures, **mine.metadata.signatures}
        more = sorted(set(theirs.signed_by) - set(mine.signed_by))
        if more:
            notes.append(f"The hub has the signature of {_names(more)} already; it is taken along.")
        metadata = Metadata(mine.metadata.signed, joined)
        proposal = team_metadata.check(view, metadata, manifest, yanked, now)
        return Step(proposal, None, file.dropped, _about(notes, file), bool(more or file.dropped))
    if theirs and theirs.signed_by and len(theirs.signed_by) >= (len(mine.signed_by) if mine else 0):
        notes.append(f"The proposal that {_names(theirs.signed_by)} signed waits on the hub: it goes on.")
        return _instead(theirs, mine, notes, file)
    if mine:
        return _instead(mine, theirs, notes, file)
    metadata = team_metadata.next_version(view, manifest, yanked, now)
    fresh = team_metadata.check(view, metadata, manifest, yanked, now)
    before = file if file.outdated is not None else hub
    if before.outdated is not None:
        again = f" {_names(before.dropped)} must sign again." if before.dropped else ""
        notes.append(
            f"Another release of {view.role} came first: these signatures are for version {before.outdated} of its "
            f"metadata, which is at version {view.current.version} now. The release is put on version "
            f"{metadata.signed.version}, and its signatures so far are dropped.{again} Nothing of the release itself "
            "has changed."
        )
    return Step(fresh, before.outdated, before.dropped, tuple(notes), True)


def sign(
    view: TeamView, step: Step, manifest: ReleaseManifest, signer: Signer, *, yanked: Collection[str], now: datetime
) -> Proposal:
    """Add a signature, and check the result as everybody else will.

    Raises:
        TrustError: The signer failed (`signer_failed`), or its signature does not count (`signature_invalid`).
    """
    metadata: Metadata[Targets] = Metadata(step.proposal.metadata.signed, dict(step.proposal.metadata.signatures))
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        raise TrustError(f"The signer did not sign: {error.__cause__ or error}.", "signer_failed") from error
    return team_metadata.check(view, metadata, manifest, yanked, now)


def _instead(chosen: Proposal, other: Proposal | None, notes: list[str], file: _Candidate) -> Step:
    lost = other.signed_by if other else ()
    if lost:
        notes.append(
            f"{_names(lost)} signed other bytes for the same release; with those of {_names(chosen.signed_by)} they "
            f"cannot be joined. {_names(lost)} must sign again; nothing of the release itself differs."
        )
    changed = other is not None or bool(file.dropped) or file.proposal is None
    return Step(chosen, file.outdated, file.dropped + lost, _about(notes, file), changed)


def signers_of(view: TeamView, raw: bytes) -> tuple[str, ...]:
    """Who has signed metadata, by the team's keys; wrong signatures and other keys do not count.

    Raises:
        TrustError: It is no metadata (code `metadata_invalid`).
    """
    metadata = rotation.parse(raw, "The release's metadata")
    return rotation.signature_state("targets", view.delegator, view.role, metadata).signed


def _candidate(
    view: TeamView, manifest: ReleaseManifest, raw: bytes | None, yanked: Collection[str], now: datetime
) -> _Candidate:
    if raw is None:
        return _Candidate(None)
    metadata = rotation.parse(raw, "The release's metadata")
    following = view.current.version + 1
    if isinstance(metadata.signed, Targets) and metadata.signed.version != following:
        if metadata.signed.version > following:
            raise ConflictError(
                f"The signatures are for version {metadata.signed.version} of {view.role}, but the hub is at version "
                f"{view.current.version}: it is another hub, or it has lost releases. Ask its operator.",
                "hub_behind",
            )
        return _Candidate(None, metadata.signed.version, _owners(view, metadata))
    strangers = {keyid: sig for keyid, sig in metadata.signatures.items() if keyid not in _keyids(view)}
    members = {keyid: sig for keyid, sig in metadata.signatures.items() if keyid not in strangers}
    kept: Metadata[Any] = Metadata(metadata.signed, members)
    dropped = tuple(sorted(keyid[:12] for keyid in strangers))
    return _Candidate(team_metadata.check(view, kept, manifest, yanked, now), None, dropped)


def _about(notes: list[str], file: _Candidate) -> tuple[str, ...]:
    if file.dropped and file.outdated is None:
        notes.append(
            f"The signatures with the keys {_names(file.dropped)} are dropped: these keys are not in the team (any "
            "more)."
        )
    return tuple(notes)


def _owners(view: TeamView, metadata: Metadata[Any]) -> tuple[str, ...]:
    found = []
    for keyid in metadata.signatures:
        key = team_metadata.key_of(view.delegator, keyid)
        found.append(owner_of(key) if key else keyid[:12])
    return tuple(sorted(found))


def _keyids(view: TeamView) -> frozenset[str]:
    delegations = view.delegator.delegations
    roles = delegations.roles if delegations else None
    return frozenset(roles[view.role].keyids) if roles and view.role in roles else frozenset()


def _names(names: Collection[str]) -> str:
    return ", ".join(names)

"""Bringing a signed release to the hub: nothing is uploaded before the hub could accept it."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from msgspec import Struct

from sdx_hub.domain.errors import ConflictError, TrustError
from sdx_hub.publishing import payload, signing
from sdx_hub.publishing.bundle import Bundle
from sdx_hub.publishing.hub_client import HubClient
from sdx_hub.publishing.hub_releases import HubReleases
from sdx_hub.publishing.signing import Step
from sdx_hub.publishing.team_metadata import Proposal, TeamView
from sdx_hub.publishing.upload import Uploader
from sdx_hub.publishing.verifying import VerifiedBundle


class Sent(Struct, frozen=True):
    """What became of it.

    Attributes:
        shown: The release as the hub shows it now.
        uploaded: Digests that the hub did not have.
    """

    shown: dict[str, Any]
    uploaded: tuple[str, ...]


def proposal_of(
    view: TeamView, bundle: Bundle, *, waiting: bytes | None, yanked: Collection[str], now: datetime
) -> Step:
    """The proposal that publishing this file would bring, with the signatures that the hub has for the same bytes.

    Raises:
        ConflictError: Another release came first (`metadata_outdated`), or somebody signed other bytes for this release
            (`proposal_differs`): sign again.
        TrustError: Nobody has signed (`unsigned`), or the file is refused (see `signing.prepare`).
    """
    carried = bundle.signed.raw if bundle.signed else None
    if carried is None and waiting is None:
        raise unsigned(bundle)
    step = signing.prepare(view, bundle.manifest, carried=carried, waiting=waiting, yanked=yanked, now=now)
    if step.rebased_from is not None and not step.proposal.signed_by:
        raise ConflictError(
            f"Another release of {view.role} came first: the signatures are for version {step.rebased_from} of its "
            f"metadata, which is at version {view.current.version} now. Sign anew, nothing else is needed: sdx release "
            f"sign {bundle.path} --signer KEY.",
            "metadata_outdated",
            current_version=view.current.version,
        )
    if carried is not None and step.rebased_from is None:
        mine = signing.signers_of(view, carried)
        lost = sorted(set(mine) - set(step.proposal.signed_by))
        if lost:
            raise ConflictError(
                f"{', '.join(step.proposal.signed_by)} signed other bytes for {bundle.id}, and these wait on the hub; "
                f"the signature of {', '.join(lost)} in this file does not fit it. Sign that one: sdx release "
                f"sign {bundle.path} --signer KEY.",
                "proposal_differs",
            )
    if not step.proposal.signed_by:
        raise unsigned(bundle)
    return step


def unsigned(bundle: Bundle) -> TrustError:
    """The refusal of a file without any signature."""
    return TrustError(f"Nobody has signed {bundle.id}: sdx release sign {bundle.path} --signer KEY.", "unsigned")


def send(
    hub: HubClient, verified: VerifiedBundle, proposal: Proposal, progress: payload.Progress = payload.no_progress
) -> Sent:
    """Upload what the hub does not have, then propose or publish.

    Args:
        hub: With a publisher's token.
        verified: The file.
        proposal: From `proposal_of`.
        progress: Told about the bytes that the hub has.

    Raises:
        Unavailable: The hub was away for too long; a later call goes on where this one stopped.
        HubError: The hub refuses it.
    """
    bundle = verified.bundle
    uploaded = Uploader(hub, progress).send(bundle)
    raw = signing.encode(proposal.metadata)
    shown = HubReleases(hub).put(bundle.id, bundle.manifest_raw, proposal.role, raw)
    return Sent(shown, tuple(uploaded))

"""Two people stand behind a rollout: two who signed the release, or one who ordered it and another who approved it.

An approval is of exactly this content: it holds the manifest's digest and the owners of the keys that signed it.
"""

import hashlib
import json

import msgspec

from sdx_hub.domain.access import Principal
from sdx_hub.domain.errors import ConflictError, NotAllowed
from sdx_hub.domain.rollout.policy import Approval, Order
from sdx_hub.persistence.tables.releases import Release
from sdx_hub.persistence.tables.rollouts import Rollout

_PEOPLE = 2


def approval_of(order: Order, release: Release) -> Approval:
    """What is to be approved; of the kind `signatures` it is approved already."""
    signed_by = tuple(sorted(set(json.loads(release.signed_by))))
    alone = order.second_person or len(signed_by) < _PEOPLE
    digest = hashlib.sha256(release.manifest).hexdigest()
    return Approval("second_person" if alone else "signatures", digest, signed_by)


def signed_by_two(approval: Approval) -> bool:
    """Whether the release itself has two people behind it, whatever the order asks for."""
    return len(approval.signed_by) >= _PEOPLE


def bound_approval(row: Rollout, release: Release) -> Approval:
    """The approval of a rollout, if it still is of this release.

    Raises:
        ConflictError: The release is not published (code `release_not_published`), or is not what the approval is bound
            to: its content or its signers changed (code `approval_void`).
    """
    held = msgspec.json.decode(row.signatures, type=Approval)
    if release.state != "published":
        raise ConflictError(
            f"{release.id} is {release.state}, not published: no device gets it. Start a rollout of another release.",
            "release_not_published",
        )
    signed_by = tuple(sorted(set(json.loads(release.signed_by))))
    digest = hashlib.sha256(release.manifest).hexdigest()
    if (held.manifest_sha256, held.signed_by) != (digest, signed_by):
        raise ConflictError(
            f"{release.id} is not what it was when this rollout was ordered: its manifest or its signers changed. "
            "Cancel the rollout, look at the release, and order it anew.",
            "approval_void",
        )
    return held


def refuse_same_person(principal: Principal, row: Rollout) -> None:
    """Return if somebody else ordered the rollout.

    Raises:
        NotAllowed: The same person did (code `same_person`).
    """
    if principal.name == row.created_by:
        raise NotAllowed(
            f"{principal.name} ordered this rollout: somebody else has to agree, who may approve.", "same_person"
        )

"""How long each role still lasts. A role past half of its life is an alarm, long before clients refuse it.

The hub renews its own metadata earlier than that, so an alarm about a snapshot or a timestamp says that it cannot sign.
"""

from datetime import datetime

from msgspec import Struct

from sdx_hub.services.repositories.metadata_store import MetadataStore
from sdx_hub.trust.ceremony import ONLINE_ROLES
from sdx_hub.trust.online import IMAGE

_TOP = frozenset({"root", "targets", *ONLINE_ROLES[IMAGE]})


class Expiry(Struct, frozen=True):
    """The newest version of one role.

    Attributes:
        half_life_passed: Half of the time from its arrival at the hub to its expiry is over.
    """

    repository: str
    role: str
    version: int
    expires_at: datetime
    half_life_passed: bool
    expired: bool


def expiries(store: MetadataStore, now: datetime) -> list[Expiry]:
    """Every role that counts today: both roots, and all of the image repository; the first to expire comes first.

    A team that is no longer delegated to is left out: nobody misses it.
    """
    found = [
        Expiry(
            repository,
            role,
            head.version,
            head.expires_at,
            now >= head.created_at + head.life() / 2,
            now >= head.expires_at,
        )
        for (repository, role), head in store.heads.items()
        if role in _TOP or role in store.delegated
    ]
    return sorted(found, key=lambda each: (each.expires_at, each.repository, each.role))

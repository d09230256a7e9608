"""How long each role still lasts. A role past half of its life is an alarm, long before clients refuse it.

The hub renews its own metadata earlier than that, so an alarm about a snapshot or a timestamp says that it cannot sign.
"""

from datetime import datetime
from typing import Any

from msgspec import Struct
from tuf.api.metadata import Metadata, Root, Targets

from sdx_hub.adapters.clock import Clock
from sdx_hub.persistence.database import Database
from sdx_hub.services import metadata_store as rows
from sdx_hub.trust.keys import owner_of
from sdx_hub.trust.online import DIRECTOR, IMAGE
from sdx_hub.trust.verification import delegated_roles


class RoleKey(Struct, frozen=True):
    """A key that may sign for a role."""

    owner: str
    keyid: str


class RoleState(Struct, frozen=True):
    """The newest version of one role, and who may sign the next.

    Attributes:
        half_life_passed: Half of the time from its arrival at the hub to its expiry is over.
    """

    repository: str
    role: str
    version: int
    expires_at: datetime
    half_life_passed: bool
    expired: bool
    threshold: int
    keys: tuple[RoleKey, ...]

    @property
    def alarm(self) -> bool:
        return self.half_life_passed or self.expired


async def expiries(database: Database, clock: Clock) -> list[RoleState]:
    """Every role that counts today: both roots, and all of the image repository; the first to expire comes first.

    A team that is no longer delegated to is left out: nobody misses it.
    """
    async with database.reading() as session:
        heads = await rows.newest(session)
        holders: dict[str, Root | Targets] = {}
        for repository, role in ((IMAGE, "root"), (IMAGE, "targets"), (DIRECTOR, "root")):
            raw = await rows.newest_raw(session, repository, role)
            if raw is None:
                return []
            holders[f"{repository}/{role}"] = Metadata[Any].from_bytes(raw).signed
    now = clock.now()
    states = []
    for (repository, role), head in heads.items():
        delegator = _delegator(holders, repository, role)
        if delegator is None:
            continue
        held = delegator.get_delegated_role(role)
        states.append(
            RoleState(
                repository,
                role,
                head.version,
                head.expires_at,
                now >= head.created_at + head.life() / 2,
                now >= head.expires_at,
                held.threshold,
                tuple(RoleKey(owner_of(delegator.get_key(keyid)), keyid) for keyid in held.keyids),
            )
        )
    return sorted(states, key=lambda state: (state.expires_at, state.repository, state.role))


def _delegator(holders: dict[str, Root | Targets], repository: str, role: str) -> Root | Targets | None:
    root, targets = holders[f"{repository}/root"], holders[f"{IMAGE}/targets"]
    if isinstance(root, Root) and role in root.roles:
        return root
    return targets if isinstance(targets, Targets) and role in delegated_roles(targets) else None

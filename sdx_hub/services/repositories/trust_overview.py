"""Who may sign what, until when: what a person looks at before a key is changed or a role runs out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Role, Root

from sdx_hub.adapters.clock import Clock
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.services.repositories.trust_alarms import expiries
from sdx_hub.trust.keys import owner_of
from sdx_hub.trust.online import DIRECTOR, IMAGE


class Holder(Struct, frozen=True):
    """A key of a role; the hub's own keys have no owner's name."""

    owner: str
    keyid: str


class RoleView(Struct, frozen=True):
    """One role: its newest version, and the keys that may sign the next one."""

    repository: str
    role: str
    version: int
    expires_at: datetime
    threshold: int
    keys: list[Holder]
    alarm: bool
    expired: bool


class TrustOverview:
    """The roles of both repositories.

    Args:
        image: Whose knowledge of both is read.
        clock: Tells what is late.
    """

    def __init__(self, image: ImageRepository, clock: Clock) -> None:
        self._image = image
        self._clock = clock

    async def roles(self) -> list[RoleView]:
        """Every role of both repositories that has metadata."""
        await self._image.refresh()
        store = self._image.store
        delegators = {
            (repository, role): keys
            for repository in (IMAGE, DIRECTOR)
            for role, keys in _signers_of(await store.newest_file(repository, "root")).items()
        }
        top = _signers_of(await store.newest_file(IMAGE, "targets"))
        delegators |= {(IMAGE, role): keys for role, keys in top.items()}
        return [
            RoleView(
                each.repository,
                each.role,
                each.version,
                each.expires_at,
                *delegators.get((each.repository, each.role), (0, [])),
                alarm=each.half_life_passed,
                expired=each.expired,
            )
            for each in expiries(store, self._clock.now())
        ]


def _signers_of(raw: bytes) -> dict[str, tuple[int, list[Holder]]]:
    signed = Metadata[Any].from_bytes(raw).signed
    roles: Mapping[str, Role] = {}
    keys: Mapping[str, Key] = {}
    if isinstance(signed, Root):
        roles, keys = signed.roles, signed.keys
    elif signed.delegations is not None:
        roles, keys = signed.delegations.roles or {}, signed.delegations.keys
    return {
        name: (role.threshold, [Holder(owner_of(keys[keyid]), keyid) for keyid in role.keyids])
        for name, role in roles.items()
    }

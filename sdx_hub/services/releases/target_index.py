"""Which blob a target of the image repository is: only what a team's newest metadata lists is given to anybody."""

import msgspec
from msgspec import Struct

from sdx_hub.domain.errors import NotFound
from sdx_hub.services.repositories.image_repository import ImageRepository
from sdx_hub.trust.ceremony import FLEET_CONFIG, TEAM_PREFIX


class _Target(Struct):
    hashes: dict[str, str]


class _Signed(Struct):
    targets: dict[str, _Target]


class _Metadata(Struct):
    signed: _Signed


class TargetIndex:
    """The targets of every team, decoded once for each version.

    Args:
        image: Where the metadata is.
    """

    def __init__(self, image: ImageRepository) -> None:
        self._image = image
        self._known: dict[str, tuple[bytes, dict[str, str]]] = {}

    async def digest(self, path: str) -> str:
        """The SHA-256 of the target that a consistent-snapshot path `DIR/SHA256.NAME` asks for.

        Raises:
            NotFound: No newest metadata lists this (code `target_not_found`).
        """
        folder, _, file = path.strip("/").rpartition("/")
        sha256, _, name = file.partition(".")
        team = folder.partition("/")[0]
        try:
            listed = await self._targets(team if team == FLEET_CONFIG else f"{TEAM_PREFIX}{team}")
        except NotFound:
            listed = {}
        if listed.get(f"{folder}/{name}") != sha256:
            raise NotFound(
                "There is no such target. It is named DIR/SHA256.NAME, as the metadata lists it.", "target_not_found"
            )
        return sha256

    async def _targets(self, role: str) -> dict[str, str]:
        raw = await self._image.newest(role)
        known = self._known.get(role)
        if known is None or known[0] != raw:
            signed = msgspec.json.decode(raw, type=_Metadata).signed
            known = raw, {path: target.hashes.get("sha256", "") for path, target in signed.targets.items()}
            self._known[role] = known
        return known[1]

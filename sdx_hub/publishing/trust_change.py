"""Changing who may sign: which files a change needs. Pure.

One change can need several files, because a client refuses a role whose present metadata the new keys did not sign:

| change of the keys of     | is in            | and goes with                                                   |
|---------------------------|------------------|-----------------------------------------------------------------|
| root, snapshot, timestamp | the next root    |                                                                 |
| targets                   | the next root    | the next targets, if the present one loses its threshold        |
| team-NAME, fleet-config   | the next targets | the team's next metadata, likewise                              |
| a new team                | the next targets | the team's first metadata                                       |

Without a change of keys it is the role's own next version, with a new expiry.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct
from tuf.api.metadata import Metadata, Root, Targets

from sdx_hub.domain.errors import NotFound
from sdx_hub.trust import rotation
from sdx_hub.trust.keys import PublicKey
from sdx_hub.trust.rotation import KeyChange

IMAGE = "image"
DIRECTOR = "director"
TARGETS = "targets"


class Current(Struct, frozen=True):
    """The image repository today, verified.

    Attributes:
        targets: With its signatures.
        teams: Of the role that changes at least, with their signatures.
    """

    root: Root
    targets: Metadata[Targets]
    teams: Mapping[str, Metadata[Targets]]


class NewFile(Struct, frozen=True):
    """An unsigned file that somebody has to sign.

    Attributes:
        why: Why it is part of the change, for people.
    """

    repository: str
    role: str
    metadata: Metadata[Any]
    why: str

    @property
    def name(self) -> str:
        """File name; a director's carries its repository, so that both fit into one folder."""
        prefix = "" if self.repository == IMAGE else f"{self.repository}."
        return f"{prefix}{self.metadata.signed.version}.{self.role}.json"


def parse_role(text: str) -> tuple[str, str]:
    """Split `[REPOSITORY/]ROLE`; `director` alone is the director's root, as in the ceremony.

    Raises:
        NotFound: There is no such repository or role (code `role_unknown`).
    """
    if text == DIRECTOR:
        return DIRECTOR, "root"
    repository, slash, role = text.rpartition("/")
    repository = repository if slash else IMAGE
    known = role in rotation.ROOT_ROLES or (repository == IMAGE and rotation.is_delegated(role))
    if repository not in {IMAGE, DIRECTOR} or not known:
        raise NotFound(
            f"There is no role {text!r}. Roles are root, targets, snapshot, timestamp, team-NAME and fleet-config, and "
            "with director/ in front root, targets, snapshot and timestamp of the director.",
            "role_unknown",
        )
    return repository, role


def image_files(current: Current, role: str, change: KeyChange, now: datetime) -> list[NewFile]:
    """The files of a change in the image repository, in the order in which they take effect.

    Raises:
        NotFound, BadInput, TrustError: See `rotation.next_root` and `rotation.next_targets`.
    """
    if role in rotation.ROOT_ROLES and (change or role != TARGETS):
        root = rotation.next_root(current.root, role, change, now)
        files = [NewFile(IMAGE, "root", root, _why(role, change))]
        if role == TARGETS and not _still_signed(root.signed, TARGETS, current.targets):
            following = rotation.next_targets(current.targets.signed, "", KeyChange(), now)
            files.append(NewFile(IMAGE, TARGETS, following, "the present one lost its threshold"))
        return files
    if role == TARGETS:
        following = rotation.next_targets(current.targets.signed, "", KeyChange(), now)
        return [NewFile(IMAGE, TARGETS, following, "a new expiry")]
    team = current.teams.get(role)
    if not change:
        if team is None:
            raise NotFound(f"There is no role {role}. To make a team: --add FILE.pub for each key.", "role_unknown")
        return [NewFile(IMAGE, role, rotation.refreshed_team(team.signed, now), "a new expiry")]
    targets = rotation.next_targets(current.targets.signed, role, change, now)
    files = [NewFile(IMAGE, TARGETS, targets, _why(role, change))]
    if team is None:
        files.append(NewFile(IMAGE, role, rotation.first_team(now), "a new team starts empty"))
    elif not _still_signed(targets.signed, role, team):
        following = rotation.refreshed_team(team.signed, now)
        files.append(NewFile(IMAGE, role, following, "the present one lost its threshold"))
    return files


def director_files(root: Root, role: str, change: KeyChange, now: datetime) -> list[NewFile]:
    """As `image_files`, for the director: only its root is signed by people."""
    following = rotation.next_root(root, role, change, now, online=rotation.DIRECTOR_ONLINE)
    return [NewFile(DIRECTOR, "root", following, _why(role, change))]


def online_files(repository: str, root: Root, made: Mapping[str, PublicKey], now: datetime) -> list[NewFile]:
    """One next root in which new keys of the hub replace all present ones of their roles.

    Args:
        repository: Whose root it is.
        root: The newest one.
        made: Role to its new key; each was made in the hub's own folder.
        now: Start of the new expiry, UTC.

    Raises:
        NotFound, BadInput, TrustError: See `rotation.next_root`.
    """
    online = rotation.DIRECTOR_ONLINE if repository == DIRECTOR else rotation.ONLINE
    following = root
    for role, public in made.items():
        held = tuple(following.roles[role].keyids) if role in following.roles else ()
        following = rotation.next_root(following, role, KeyChange((public,), held), now, online=online).signed
    following.version = root.version + 1
    why = f"new keys of the hub for {', '.join(made)}"
    return [NewFile(repository, "root", Metadata(following), why)]


def _still_signed(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    return rotation.signature_state("", delegator, role, metadata).met


def _why(role: str, change: KeyChange) -> str:
    return f"other keys for {role}" if change else "a new expiry"

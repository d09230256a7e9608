"""Who may do what: a role is a set of permissions, and nothing else grants any."""

from enum import StrEnum

from msgspec import Struct

from sdx_hub.domain.errors import NotAllowed


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    PUBLISHER = "publisher"
    APPROVER = "approver"
    ADMIN = "admin"


class Permission(StrEnum):
    READ = "read"
    OPERATE_DEVICES = "operate_devices"
    """Accept, revoke and tag devices, make enrolment tokens, assign releases."""
    PUBLISH = "publish"
    """Upload payloads, propose releases, add signatures."""
    APPROVE = "approve"
    """Yank releases, and bring new root and targets metadata in (both are verified by signature anyway)."""
    ADMINISTER = "administer"
    """Tokens of people, the audit log, webhooks."""


PERMISSIONS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.OPERATOR: frozenset({Permission.READ, Permission.OPERATE_DEVICES}),
    Role.PUBLISHER: frozenset({Permission.READ, Permission.PUBLISH}),
    Role.APPROVER: frozenset({Permission.READ, Permission.PUBLISH, Permission.APPROVE}),
    Role.ADMIN: frozenset(Permission),
}


class Principal(Struct, frozen=True):
    """A person or a CI job, as its token says."""

    name: str
    role: Role

    def require(self, permission: Permission) -> None:
        """Return if the role grants `permission`.

        Raises:
            NotAllowed: It does not.
        """
        if permission not in PERMISSIONS[self.role]:
            raise NotAllowed(
                f"A token with the role {self.role.value!r} may not {permission.value.replace('_', ' ')}. "
                "Ask an admin for one that may: sdx hub token new --role ROLE."
            )

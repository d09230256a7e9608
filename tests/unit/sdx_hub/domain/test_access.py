import pytest

from sdx_hub.domain.access import PERMISSIONS, Permission, Principal, Role
from sdx_hub.domain.errors import NotAllowed

# Written down once more on purpose: granting something to a role takes two decisions.
MAY = {
    Role.VIEWER: {"read"},
    Role.OPERATOR: {"read", "operate_devices"},
    Role.PUBLISHER: {"read", "publish"},
    Role.APPROVER: {"read", "publish", "approve"},
    Role.ADMIN: {"read", "operate_devices", "publish", "approve", "administer"},
}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("permission", Permission)
def test_a_role_may_exactly_what_is_written_here(role: Role, permission: Permission) -> None:
    principal = Principal("alice", role)
    if permission.value in MAY[role]:
        principal.require(permission)
    else:
        with pytest.raises(NotAllowed) as refused:
            principal.require(permission)
        assert (refused.value.code, refused.value.status) == ("not_allowed", 403)
        assert role.value in str(refused.value)


def test_every_role_has_its_permissions() -> None:
    assert set(PERMISSIONS) == set(Role)

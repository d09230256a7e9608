from datetime import timedelta

import pytest
from sqlalchemy import select

from sdx_hub.domain.access import Role
from sdx_hub.domain.errors import BadInput, NotAllowed, NotAuthenticated, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.audit import AuditEntry
from sdx_hub.persistence.tables.people import PersonToken
from sdx_hub.services.people import INSTALLER, MAX_LIFE, PeopleService
from tests.unit.sdx_hub.services.conftest import ADMIN, APPROVER, OPERATOR, PUBLISHER, VIEWER, MovableClock

DAY = timedelta(days=1)


@pytest.fixture
def people(database: Database, clock: MovableClock) -> PeopleService:
    return PeopleService(database, clock)


async def refusal(people: PeopleService, token: str) -> str:
    with pytest.raises(NotAuthenticated) as refused:
        await people.authenticate(token)
    return refused.value.code


@pytest.mark.parametrize("role", Role)
async def test_a_token_says_who_and_what_role(people: PeopleService, role: Role) -> None:
    made = await people.new_token(ADMIN, "alice", role, DAY)
    principal = await people.authenticate(made.token)
    assert (principal.name, principal.role) == ("alice", role)


async def test_only_its_hash_is_stored_and_nothing_prints_it(people: PeopleService, database: Database) -> None:
    made = await people.new_token(INSTALLER, "alice", Role.ADMIN, DAY)
    secret = made.token.split("_", 2)[2]  # base64url: may hold underscores of its own.
    assert len(secret) == 43, "256 random bits"
    assert secret not in repr(made)
    async with database.reading() as session:
        rows = [*await session.scalars(select(PersonToken)), *await session.scalars(select(AuditEntry))]
        listed = await people.list_tokens(ADMIN)
    assert secret not in repr([row.model_dump() for row in rows]) + repr(listed)


async def test_a_changed_token_is_unknown(people: PeopleService) -> None:
    token = (await people.new_token(ADMIN, "alice", Role.VIEWER, DAY)).token
    other = (await people.new_token(ADMIN, "bob", Role.ADMIN, DAY)).token
    mixed = "_".join(other.split("_")[:2]) + "_" + token.split("_", 2)[2]
    for wrong in (
        "",
        "sdx_",
        token[:-1],
        token + "x",
        token.upper(),
        mixed,
        f"sdxd_{token}",
        token.replace("sdx_", "sdxe_"),
    ):
        assert await refusal(people, wrong) == "token_unknown"


async def test_a_token_expires_to_the_second(people: PeopleService, clock: MovableClock) -> None:
    token = (await people.new_token(ADMIN, "ci", Role.PUBLISHER, timedelta(hours=1))).token
    clock.move(seconds=3599)
    assert (await people.authenticate(token)).name == "ci"
    clock.move(seconds=1)
    assert await refusal(people, token) == "token_expired"


async def test_a_revoked_token_is_dead_at_the_next_request(people: PeopleService, database: Database) -> None:
    made = await people.new_token(ADMIN, "alice", Role.ADMIN, DAY)
    await people.revoke(ADMIN, made.id)
    assert await refusal(people, made.token) == "token_revoked"
    await people.revoke(ADMIN, made.id)
    async with database.reading() as session:
        audited = [entry.action for entry in await session.scalars(select(AuditEntry).order_by(AuditEntry.seq))]  # type: ignore[arg-type]
    assert audited == ["token.create", "token.revoke"]
    with pytest.raises(NotFound) as refused:
        await people.revoke(ADMIN, "nobody")
    assert refused.value.code == "token_not_found"


async def test_the_list_is_newest_first(people: PeopleService, clock: MovableClock) -> None:
    for name in ("alice", "bob"):
        await people.new_token(ADMIN, name, Role.VIEWER, DAY)
        clock.move(seconds=1)
    assert [info.name for info in await people.list_tokens(ADMIN)] == ["bob", "alice"]


@pytest.mark.parametrize("principal", [VIEWER, OPERATOR, PUBLISHER, APPROVER])
async def test_only_admins_make_see_and_revoke_tokens(people: PeopleService, principal: object) -> None:
    made = await people.new_token(ADMIN, "alice", Role.VIEWER, DAY)
    for call in (
        people.new_token(principal, "eve", Role.ADMIN, DAY),  # type: ignore[arg-type]
        people.list_tokens(principal),  # type: ignore[arg-type]
        people.revoke(principal, made.id),  # type: ignore[arg-type]
    ):
        with pytest.raises(NotAllowed):
            await call
    assert (await people.authenticate(made.token)).name == "alice"


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a" * 65, "a\n", "ä", "a/b"])
async def test_names_have_a_narrow_alphabet(people: PeopleService, name: str) -> None:
    with pytest.raises(BadInput) as refused:
        await people.new_token(ADMIN, name, Role.VIEWER, DAY)
    assert refused.value.code == "invalid_name"


@pytest.mark.parametrize("life", [timedelta(0), -DAY, MAX_LIFE + timedelta(seconds=1)])
async def test_no_token_lives_for_ever(people: PeopleService, life: timedelta) -> None:
    with pytest.raises(BadInput) as refused:
        await people.new_token(ADMIN, "alice", Role.VIEWER, life)
    assert refused.value.code == "invalid_life"

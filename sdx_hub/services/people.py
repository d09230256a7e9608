"""Tokens of people and CI jobs: scoped by role, expiring, revocable at once, stored as hashes.

A token reads `sdx_ID_SECRET`. The id finds the row and may be shown; the SHA-256 of the whole text decides. The secret
has 256 random bits, so a fast hash is enough: there is nothing to guess. No answer is cached: a revoked token is dead
at the next request, in every worker.
"""

import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta

from msgspec import Struct
from sqlalchemy import select, update
from sqlmodel import col

from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX, ENROL_TOKEN_PREFIX, PERSON_TOKEN_PREFIX
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal, Role
from sdx_hub.domain.errors import BadInput, NotAuthenticated, NotFound
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.people import PersonToken

INSTALLER = Principal("hub-init", Role.ADMIN)
"""Who makes the first admin token, at `sdx hub init`: somebody with access to the data folder."""

MAX_LIFE = timedelta(days=366)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,63}")
_NOBODY = hashlib.sha256(b"").hexdigest()


class NewToken(Struct, frozen=True):
    """A token just made; the only moment at which its text exists outside its owner's hands."""

    id: str
    token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"NewToken(id={self.id!r}, token=***, expires_at={self.expires_at!r})"


class TokenInfo(Struct, frozen=True):
    """What may be shown of a token."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class PeopleService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def new_token(self, principal: Principal, name: str, role: Role, life: timedelta) -> NewToken:
        """Make a token for `name`.

        Raises:
            NotAllowed: `principal` is no admin.
            BadInput: The name or the life is out of bounds.
        """
        principal.require(Permission.ADMINISTER)
        if not _NAME.fullmatch(name):
            raise BadInput(
                "A name has 1 to 64 letters, digits and @ . _ + -, for instance alice or ci-nav.", "invalid_name"
            )
        if not timedelta(0) < life <= MAX_LIFE:
            raise BadInput(f"A token lives between a second and {MAX_LIFE.days} days.", "invalid_life")
        identity = secrets.token_hex(6)
        text = f"{PERSON_TOKEN_PREFIX}{identity}_{secrets.token_urlsafe(32)}"
        now = self._clock.now()
        row = PersonToken(
            id=identity, name=name, role=role.value, token_sha256=_sha256(text), created_at=now, expires_at=now + life
        )
        async with self._database.unit_of_work() as uow:
            uow.session.add(row)
            await uow.audit(principal.name, "token.create", identity, name=name, role=role.value)
            await uow.commit()
        return NewToken(identity, text, row.expires_at)

    async def authenticate(self, token: str) -> Principal:
        """Return whose token this is.

        Raises:
            NotAuthenticated: It is unknown, expired or revoked (codes `token_unknown`, `token_expired`,
                `token_revoked`).
        """
        if token.startswith((DEVICE_TOKEN_PREFIX, ENROL_TOKEN_PREFIX)) or not token.startswith(PERSON_TOKEN_PREFIX):
            raise NotAuthenticated(
                "This is not a person's token: those start with sdx_. Make one with `sdx hub token new`.",
                "token_unknown",
            )
        identity = token.removeprefix(PERSON_TOKEN_PREFIX).partition("_")[0]
        async with self._database.reading() as session:
            row = await session.get(PersonToken, identity)
        # The hash is compared for an unknown id too, so that the time taken tells no ids.
        known = hmac.compare_digest(_sha256(token), row.token_sha256 if row else _NOBODY)
        if row is None or not known:
            raise NotAuthenticated("This token is not known here. Log in again: sdx login.", "token_unknown")
        if row.revoked_at is not None:
            raise NotAuthenticated("This token was revoked. Ask an admin for a new one.", "token_revoked")
        if row.expires_at <= self._clock.now():
            raise NotAuthenticated("This token has expired. Ask an admin for a new one.", "token_expired")
        return Principal(row.name, Role(row.role))

    async def list_tokens(self, principal: Principal) -> list[TokenInfo]:
        """Every token, newest first, without its secret.

        Raises:
            NotAllowed: `principal` is no admin.
        """
        principal.require(Permission.ADMINISTER)
        async with self._database.reading() as session:
            rows = await session.scalars(select(PersonToken).order_by(col(PersonToken.created_at).desc()))
            return [
                TokenInfo(row.id, row.name, Role(row.role), row.created_at, row.expires_at, row.revoked_at)
                for row in rows
            ]

    async def revoke(self, principal: Principal, identity: str) -> None:
        """Revoke a token; one that is revoked already stays as it is.

        Raises:
            NotAllowed: `principal` is no admin.
            NotFound: There is no such token.
        """
        principal.require(Permission.ADMINISTER)
        async with self._database.unit_of_work() as uow:
            row = await uow.session.get(PersonToken, identity)
            if row is None:
                raise NotFound(f"There is no token {identity[:32]!r}. See: sdx hub token list.", "token_not_found")
            if row.revoked_at is not None:
                return
            await uow.session.execute(
                update(PersonToken)
                .where(col(PersonToken.id) == identity, col(PersonToken.revoked_at).is_(None))
                .values(revoked_at=self._clock.now())
            )
            await uow.audit(principal.name, "token.revoke", identity, name=row.name)
            await uow.commit()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

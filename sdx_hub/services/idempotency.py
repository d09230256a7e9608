"""`Idempotency-Key`: a retry of a request that creates something gets the first answer, and makes nothing twice.

An answer may hold a secret that exists nowhere else (a new token). It is sealed with a key made of the caller's own
token, which the hub does not have: whoever steals the database cannot read it.
"""

import hashlib
import os
from datetime import timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct
from sqlalchemy import delete, update
from sqlmodel import col

from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import BadInput, ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.idempotency import IdempotentRequest

LIFE = timedelta(hours=24)
"""So long is an answer kept; a retry after that is a new request."""
MAX_KEY_CHARS = 255

_AT_WORK = timedelta(minutes=2)
_NONCE_BYTES = 12


class Claim(Struct, frozen=True):
    """One request with a key.

    Attributes:
        id: The row.
        earlier: The sealed answer that was given before, opened; None where this request is the first.
    """

    id: str
    seal: bytes
    earlier: bytes | None


class IdempotencyService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def claim(self, token: str, key: str, request: bytes) -> Claim:
        """Begin a request, or find the answer that it had.

        Args:
            token: The caller's token: their keys are their own.
            key: What they chose.
            request: Method, path and body.

        Raises:
            BadInput: The key is empty or too long (code `idempotency_key_invalid`).
            ConflictError: The key was used for another request (`idempotency_key_reused`), the first one is still at
                work (`idempotency_in_progress`), or it died and nobody knows how far it came (`idempotency_unknown`).
        """
        if not 1 <= len(key) <= MAX_KEY_CHARS or not key.isprintable():
            raise BadInput(f"An Idempotency-Key has 1 to {MAX_KEY_CHARS} characters.", "idempotency_key_invalid")
        identity = _digest(b"id", token.encode(), key.encode()).hex()
        seal = _digest(b"seal", token.encode(), key.encode())
        asked = hashlib.sha256(request).hexdigest()
        now = self._clock.now()
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(delete(IdempotentRequest).where(col(IdempotentRequest.created_at) < now - LIFE))
            row = await uow.session.get(IdempotentRequest, identity)
            if row is None:
                uow.session.add(IdempotentRequest(id=identity, request_sha256=asked, created_at=now))
                await uow.commit()
                return Claim(identity, seal, None)
        if row.request_sha256 != asked:
            raise ConflictError(
                "This Idempotency-Key was used for another request. Choose a new one for each.",
                "idempotency_key_reused",
            )
        if row.answer is not None:
            return Claim(identity, seal, _open(seal, row.answer))
        if now - row.created_at < _AT_WORK:
            raise ConflictError("The first request with this key is still at work. Wait.", "idempotency_in_progress")
        raise ConflictError(
            "The hub stopped during the first request with this key, and cannot tell whether it took effect. Look, "
            "then use a new key.",
            "idempotency_unknown",
        )

    async def keep(self, claim: Claim, answer: bytes) -> None:
        """Keep the answer of a request that took effect."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(claim.seal).encrypt(nonce, answer, None)
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(
                update(IdempotentRequest).where(col(IdempotentRequest.id) == claim.id).values(answer=sealed)
            )
            await uow.commit()

    async def release(self, claim: Claim) -> None:
        """Forget a request that was refused: nothing was made, and the same key may be used again."""
        async with self._database.unit_of_work() as uow:
            await uow.session.execute(delete(IdempotentRequest).where(col(IdempotentRequest.id) == claim.id))
            await uow.commit()


def _open(seal: bytes, answer: bytes) -> bytes:
    nonce, sealed = answer[:_NONCE_BYTES], answer[_NONCE_BYTES:]
    try:
        return AESGCM(seal).decrypt(nonce, sealed, None)
    except InvalidTag:
        raise ConflictError("The kept answer cannot be opened. Use a new key.", "idempotency_unknown") from None


def _digest(purpose: bytes, *parts: bytes) -> bytes:
    hashed = hashlib.sha256(b"sdx-idempotency:" + purpose)
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big") + part)
    return hashed.digest()

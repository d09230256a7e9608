"""What a retry meets: the first answer, or an honest word about why there is none."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from sdx_hub.domain.errors import BadInput, ConflictError
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.idempotency import IdempotentRequest
from sdx_hub.services.idempotency import LIFE, IdempotencyService


class Watch:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


async def test_the_first_answer_is_given_again(database: Database) -> None:
    service = IdempotencyService(database, Watch())
    claim = await service.claim("token", "key", b"request")
    assert claim.earlier is None
    await service.keep(claim, b"the answer")
    assert (await service.claim("token", "key", b"request")).earlier == b"the answer"


async def test_another_token_has_keys_of_its_own(database: Database) -> None:
    service = IdempotencyService(database, Watch())
    await service.keep(await service.claim("token", "key", b"request"), b"the answer")
    assert (await service.claim("other", "key", b"request")).earlier is None


async def test_the_same_key_for_another_request_is_refused(database: Database) -> None:
    service = IdempotencyService(database, Watch())
    await service.claim("token", "key", b"request")
    with pytest.raises(ConflictError) as refused:
        await service.claim("token", "key", b"another")
    assert refused.value.code == "idempotency_key_reused"


async def test_a_request_that_died_half_way_is_never_done_again(database: Database) -> None:
    watch = Watch()
    service = IdempotencyService(database, watch)
    await service.claim("token", "key", b"request")
    with pytest.raises(ConflictError) as refused:
        await service.claim("token", "key", b"request")
    assert refused.value.code == "idempotency_in_progress"
    watch.time += timedelta(minutes=5)
    with pytest.raises(ConflictError) as refused:
        await service.claim("token", "key", b"request")
    assert refused.value.code == "idempotency_unknown"


async def test_a_refused_request_gives_its_key_back(database: Database) -> None:
    service = IdempotencyService(database, Watch())
    await service.release(await service.claim("token", "key", b"request"))
    assert (await service.claim("token", "key", b"another")).earlier is None


async def test_answers_are_forgotten_after_a_day(database: Database) -> None:
    watch = Watch()
    service = IdempotencyService(database, watch)
    await service.keep(await service.claim("token", "old", b"request"), b"the answer")
    watch.time += LIFE + timedelta(seconds=1)
    await service.claim("token", "new", b"request")
    async with database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(IdempotentRequest)) == 1


async def test_the_row_holds_neither_answer_nor_token(database: Database) -> None:
    service = IdempotencyService(database, Watch())
    await service.keep(await service.claim("sdx_secret_token", "key", b"request"), b"sdx_new_token")
    async with database.reading() as session:
        row = await session.scalar(select(IdempotentRequest))
    assert row is not None
    assert row.answer is not None
    assert b"sdx_new_token" not in row.answer
    assert "secret" not in repr(row)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "a\x00"])
async def test_a_key_has_bounds(database: Database, key: str) -> None:
    with pytest.raises(BadInput) as refused:
        await IdempotencyService(database, Watch()).claim("token", key, b"")
    assert refused.value.code == "idempotency_key_invalid"

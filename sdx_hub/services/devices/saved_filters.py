"""Queries under a name, to be used in others as `filter(NAME)`."""

from datetime import datetime
from typing import Final

from msgspec import Struct
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from firmware_schemas.ids import check_name
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.access import Permission, Principal
from sdx_hub.domain.errors import ConflictError, NotFound
from sdx_hub.domain.query import expand, names_in, parse
from sdx_hub.domain.query.terms import Saved
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.filters import SavedFilter
from sdx_hub.services.devices.selecting import saved_filters
from sdx_hub.services.paging import Page, cut, decode_cursor, encode_cursor

MAX_FILTERS: Final = 1_000


class FilterView(Struct, frozen=True):
    """A saved filter.

    Attributes:
        query: In its canonical form.
        author: Who saved it last.
    """

    name: str
    query: str
    author: str
    saved_at: datetime


class FilterService:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def list(self, principal: Principal, *, cursor: str | None, limit: int) -> Page[FilterView]:
        """Every filter, by name.

        Raises:
            NotAllowed: The role may not read.
            BadInput: The cursor is none (code `invalid_cursor`).
        """
        principal.require(Permission.READ)
        query = select(SavedFilter).order_by(col(SavedFilter.name)).limit(limit + 1)
        if cursor:
            query = query.where(col(SavedFilter.name) > decode_cursor(cursor, str))
        async with self._database.reading() as session:
            rows, more = cut((await session.scalars(query)).all(), limit)
        return Page([_view(row) for row in rows], encode_cursor(rows[-1].name) if more else None)

    async def show(self, principal: Principal, name: str) -> FilterView:
        """One filter.

        Raises:
            NotAllowed: The role may not read.
            NotFound: There is none with this name (code `filter_not_found`).
        """
        principal.require(Permission.READ)
        async with self._database.reading() as session:
            return _view(await _find(session, name))

    async def save(
        self, principal: Principal, name: str, text: str, *, expected: FilterView | None = None
    ) -> FilterView:
        """Save a query, in place of what had this name.

        Args:
            principal: Who asks; the author.
            name: Of the filter.
            text: The query.
            expected: What the caller last saw; None replaces whatever is there.

        Raises:
            NotAllowed: The role does not operate devices.
            InvalidName: The name has another alphabet or is too long.
            BadInput: The query is none, names a filter that does not exist, or itself through others (codes
                `query_invalid`, `filter_unknown`, `filter_circular`, `query_too_large`).
            ConflictError: Somebody else changed it (`filter_changed`), or there are too many (`too_many_filters`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        check_name(name, "filter")
        query = parse(text)
        async with self._database.unit_of_work() as uow:
            expand(Saved(name), await saved_filters(uow.session, query) | {name: query})
            row = await uow.session.get(SavedFilter, name)
            _refuse_changed(row, expected)
            if row is None:
                if (await uow.session.scalar(select(func.count()).select_from(SavedFilter)) or 0) >= MAX_FILTERS:
                    raise ConflictError(f"There are {MAX_FILTERS} filters already: delete one.", "too_many_filters")
                row = SavedFilter(name=name, query="", author="", saved_at=self._clock.now())
                uow.session.add(row)
            if row.query != str(query):
                row.query, row.author, row.saved_at = str(query), principal.name, self._clock.now()
                await uow.audit(principal.name, "filter.save", name, query=row.query)
                await uow.commit()
            return _view(row)

    async def delete(self, principal: Principal, name: str, *, expected: FilterView | None = None) -> None:
        """Delete a filter.

        Args:
            principal: Who asks.
            name: Of the filter.
            expected: What the caller last saw; None deletes whatever is there.

        Raises:
            NotAllowed: The role does not operate devices.
            NotFound: There is none with this name (code `filter_not_found`).
            ConflictError: Other filters use it (code `filter_in_use`, member `used_by`), or somebody else changed it
                (`filter_changed`).
        """
        principal.require(Permission.OPERATE_DEVICES)
        async with self._database.unit_of_work() as uow:
            row = await _find(uow.session, name)
            _refuse_changed(row, expected)
            mentions = select(SavedFilter).where(col(SavedFilter.query).contains(str(Saved(row.name)), autoescape=True))
            users = sorted(
                each.name for each in await uow.session.scalars(mentions) if row.name in names_in(parse(each.query))
            )
            if users:
                raise ConflictError(
                    f"The filter {row.name} is used by {', '.join(users[:10])}: change those first.",
                    "filter_in_use",
                    used_by=users,
                )
            await uow.session.delete(row)
            await uow.audit(principal.name, "filter.delete", row.name, query=row.query)
            await uow.commit()


async def _find(session: AsyncSession, name: str) -> SavedFilter:
    row = await session.get(SavedFilter, name)
    if row is None:
        raise NotFound(f"There is no filter {name[:80]!r}. See: sdx filter list.", "filter_not_found")
    return row


def _refuse_changed(row: SavedFilter | None, expected: FilterView | None) -> None:
    if expected is not None and (row is None or _view(row) != expected):
        raise ConflictError("This filter was changed in the meantime: look again.", "filter_changed")


def _view(row: SavedFilter) -> FilterView:
    return FilterView(row.name, row.query, row.author, row.saved_at)

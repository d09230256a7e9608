"""From a query to a condition on the table of devices, the same on SQLite and PostgreSQL.

`sdx_hub.domain.query.matches` says what a query means; a test lets both answer for random fleets. Every value is a
bound parameter. Two things are not left to the database:

- Versions are compared here. Even a large fleet runs few different ones: they are read first, by one step in the index
  for each, and the condition names those that pass.
- What a device has of something is asked by `IN (SELECT ...)` on SQLite, which makes a set of it once, and by `EXISTS`
  on PostgreSQL, which plans a join; its `NOT IN` compares row by row where the set does not fit into memory.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, and_, exists, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.query import Query, expand, names_in, parse, tests_in
from sdx_hub.domain.query.matching import ORDERS, version_holds
from sdx_hub.domain.query.terms import ATTRIBUTE, Aged, Every, Like, NeverSeen, Not, OneOf, Some, VersionIs
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device, DeviceAttribute, DeviceSeen, DeviceTag, InstalledComponent
from sdx_hub.persistence.tables.filters import SavedFilter

MAX_VERSIONS = 2_000
"""Different versions of one product that a query can look through."""

_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
"""Longer ago is a smaller time."""
Condition = ColumnElement[bool]


class Selection(Struct, frozen=True):
    """Devices by a query.

    Attributes:
        query: Its canonical text.
        condition: On `Device`, for the session that it was made with.
    """

    query: str
    condition: Condition


async def select_devices(session: AsyncSession, text: str, now: datetime) -> Selection:
    """Make a condition of a query.

    Raises:
        BadInput: It is none (codes `query_invalid`, `query_too_large`), names a filter that does not exist
            (`filter_unknown`), or compares too many versions (`query_too_broad`).
    """
    query = parse(text)
    whole = expand(query, await saved_filters(session, query))
    passing = {
        test: await _versions_that_pass(session, test) for test in tests_in(whole) if isinstance(test, VersionIs)
    }
    dialect = session.get_bind().dialect.name
    return Selection(str(query), _Compiler(passing, now, sqlite=dialect == "sqlite").condition(whole))


async def saved_filters(session: AsyncSession, query: Query) -> dict[str, Query]:
    """Every filter that a query names, directly or by another one; a name that nobody saved is left out."""
    found: dict[str, Query] = {}
    asked: set[str] = set()
    wanted = names_in(query)
    while wanted := wanted - asked:
        asked |= wanted
        rows = await session.execute(
            select(col(SavedFilter.name), col(SavedFilter.query)).where(col(SavedFilter.name).in_(wanted))
        )
        new = {name: parse(text) for name, text in rows}
        found |= new
        wanted = {name for each in new.values() for name in names_in(each)}
    return found


async def _versions_that_pass(session: AsyncSession, test: VersionIs) -> list[str]:
    product, version = col(InstalledComponent.product) == test.product, col(InstalledComponent.version)
    walk = select(func.min(version).label("version")).where(product).cte("walk", recursive=True)
    following = select(func.min(version)).where(product, version > walk.c.version).scalar_subquery()
    walk = walk.union_all(select(following).where(walk.c.version.is_not(None)))
    found = await session.scalars(select(walk.c.version).where(walk.c.version.is_not(None)).limit(MAX_VERSIONS + 1))
    versions = list(found)
    if len(versions) > MAX_VERSIONS:
        raise BadInput(
            f"More than {MAX_VERSIONS} versions of {test.product} are in the fleet: too many for a query to compare.",
            "query_too_broad",
        )
    return [each for each in versions if version_holds(test, each)]


class _Compiler:
    def __init__(self, passing: Mapping[VersionIs, list[str]], now: datetime, *, sqlite: bool) -> None:
        self._passing = passing
        self._now = now
        self._sqlite = sqlite

    def condition(self, query: Query) -> Condition:
        match query:
            case OneOf(field, values):
                return self._text(field, lambda column: column.in_(values))
            case Like(field, pattern):
                return self._text(field, lambda column: self._like(column, pattern))
            case VersionIs(product, _, _):
                part = InstalledComponent
                passing = self._passing[query]
                return self._has(part.device_id, col(part.product) == product, col(part.version).in_(passing))
            case Aged(field, order, seconds):
                return self._aged(field, order, seconds)
            case NeverSeen():
                return not_(self._has(DeviceSeen.number, owner=Device.number))
            case Not(term):
                return not_(self.condition(term))
            case Every(terms):
                return and_(*(self.condition(term) for term in terms))
            case Some(terms):
                return or_(*(self.condition(term) for term in terms))
        raise RuntimeError(f"{query} was not expanded before it was compiled.")

    def _text(self, field: str, test: Any) -> Condition:
        if field.startswith(ATTRIBUTE):
            name = field.removeprefix(ATTRIBUTE)
            held = DeviceAttribute
            return self._has(held.device_id, col(held.name) == name, test(col(held.value)))
        match field:
            case "tag":
                return self._has(DeviceTag.device_id, test(col(DeviceTag.tag)))
            case "runs":
                return self._has(InstalledComponent.device_id, test(col(InstalledComponent.product)))
            case "assigned":
                return self._has(Assignment.device_id, test(col(Assignment.release_id)))
            case "action":
                newer = aliased(Action)
                same = col(newer.device_id) == col(Action.device_id)
                newest = ~exists().where(same, col(newer.desired_version) > col(Action.desired_version))
                return self._has(Action.device_id, test(col(Action.state)), newest)
        condition: Condition = test(getattr(Device, field))
        return condition

    def _has(self, key: Any, *conditions: Condition, owner: Any = None) -> Condition:
        """Whether there is a row of the device's that fulfils the conditions."""
        owner = Device.id if owner is None else owner
        rows = select(key).where(*conditions)
        among: Condition = col(owner).in_(rows) if self._sqlite else rows.where(key == owner).exists()
        return among

    def _like(self, column: Any, pattern: str) -> Any:
        """With case, where SQLite's LIKE has none."""
        if self._sqlite:
            return column.op("GLOB", is_comparison=True)(pattern.replace("[", "[[]").replace("?", "[?]"))
        escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")
        return column.like(escaped, escape="\\")

    def _aged(self, field: str, order: str, seconds: int) -> Condition:
        earlier: Any = ORDERS[_TURNED[order]]
        if field == "enrolled":
            enrolled: Condition = earlier(col(Device.created_at), self._now - timedelta(seconds=seconds))
            return enrolled
        seen: Any = col(DeviceSeen.last_seen_s)
        then_s = int(self._now.timestamp()) - seconds
        if order in {"<", "<="}:
            return self._has(DeviceSeen.number, earlier(seen, then_s), owner=Device.number)
        # Who was never seen is longer ago than anything: all but those that are not.
        return not_(self._has(DeviceSeen.number, not_(earlier(seen, then_s)), owner=Device.number))

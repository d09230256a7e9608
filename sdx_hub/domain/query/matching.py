"""Whether one device matches: what the query language means, said once in plain Python."""

import operator
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from sdx_hub.domain.query.terms import (
    ATTRIBUTE,
    Aged,
    Every,
    Like,
    NeverSeen,
    Not,
    OneOf,
    Query,
    Some,
    VersionIs,
)
from sdx_hub.domain.versions import version_key

ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class DeviceFacts(Struct, frozen=True, kw_only=True):
    """What a query can ask about a device.

    Attributes:
        installed: Product and version of each component of its last inventory.
        assigned: Release ids.
        action: State of its newest action; empty where there was none.
        seen_at: Its last poll, to the second.
    """

    id: str
    serial: str
    hardware: str
    state: str
    enrolled_at: datetime
    seen_at: datetime | None = None
    tags: frozenset[str] = frozenset()
    attributes: Mapping[str, str] = {}
    installed: frozenset[tuple[str, str]] = frozenset()
    assigned: frozenset[str] = frozenset()
    action: str = ""

    def texts(self, field: str) -> frozenset[str]:
        """Everything that the device has of a text field."""
        if field.startswith(ATTRIBUTE):
            name = field.removeprefix(ATTRIBUTE)
            return frozenset({self.attributes[name]} if name in self.attributes else ())
        match field:
            case "tag":
                return self.tags
            case "runs":
                return frozenset(product for product, _ in self.installed)
            case "assigned":
                return self.assigned
            case "action":
                return frozenset({self.action} if self.action else ())
        return frozenset({str(getattr(self, field))})


def matches(query: Query, device: DeviceFacts, now: datetime) -> bool:
    """Whether the device matches.

    Args:
        query: With its saved filters put in (`expand`).
        device: What is known of it.
        now: UTC.
    """
    match query:
        case OneOf(field, values):
            return not device.texts(field).isdisjoint(values)
        case Like(field, pattern):
            return any(_fits(pattern, text) for text in device.texts(field))
        case VersionIs(product, _, _):
            return any(version_holds(query, version) for name, version in device.installed if name == product)
        case Aged(field, order, seconds):
            return _old_enough(device, field, order, seconds, now)
        case NeverSeen():
            return device.seen_at is None
        case Not(term):
            return not matches(term, device, now)
        case Every(terms):
            return all(matches(term, device, now) for term in terms)
        case Some(terms):
            return any(matches(term, device, now) for term in terms)
    raise RuntimeError(f"{query} was not expanded before it was asked.")


def version_holds(test: VersionIs, version: str) -> bool:
    """Whether a component with this version passes a test of its product."""
    compare, key = ORDERS[test.comparison], version_key(version)
    return any(compare(key, version_key(wanted)) for wanted in test.versions)


def _old_enough(device: DeviceFacts, field: str, order: str, seconds: int, now: datetime) -> bool:
    if field == "enrolled":
        return ORDERS[order](now - device.enrolled_at, timedelta(seconds=seconds))
    if device.seen_at is None:
        return order in {">", ">="}
    return ORDERS[order](int(now.timestamp()) - int(device.seen_at.timestamp()), seconds)


def _fits(pattern: str, text: str) -> bool:
    """Match `*` in one pass: the first place where a piece fits leaves the most room for the others."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    *middle, last = rest
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    text = text[len(first) : len(text) - len(last)]
    for piece in middle:
        found = text.find(piece)
        if found < 0:
            return False
        text = text[found + len(piece) :]
    return True

"""Random queries and random small fleets for them to be asked of, out of few words so that they meet."""

from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from sdx_hub.domain.query import DeviceFacts
from sdx_hub.domain.query.terms import (
    ENUMERATED,
    TEXT_FIELDS,
    Aged,
    Like,
    NeverSeen,
    OneOf,
    Query,
    Saved,
    VersionIs,
    every,
    negate,
    some,
)
from sdx_hub.persistence.tables.assignments import Action, Assignment
from sdx_hub.persistence.tables.devices import Device, DeviceAttribute, DeviceSeen, DeviceTag, InstalledComponent
from sdx_hub.persistence.tables.releases import Product, Release

NOW = datetime.fromisoformat("2026-03-01T12:00:00.250000+00:00")
WORDS = (
    "a",
    "ab",
    "b",
    "quad-x4",
    "Quad-X4",
    "not",
    "a b",
    "a%b",
    "a_b",
    "a[b",
    "a?b",
    "a*b",
    "a\\b",
    'a"b',
    "'--",
    "ü",
)
NAMES = ("a", "b", "ab")
VERSIONS = ("1.0", "1.0.0", "1.0.0-rc9", "1.0.0-rc10", "1.0.1", "v2", "2.0+a", "10.0", "x")
PRODUCTS = ("mavsdk", "camera")
RELEASES = tuple(f"{product}@{version}" for product in PRODUCTS for version in VERSIONS)
AGES = (0, 1, 59, 60, 3_600, 86_400, 90_061)
_ACTIONS = ENUMERATED["action"]

words = st.sampled_from(WORDS)
attributes = st.sampled_from(("attribute.site", "attribute.rotor/kv"))


def _values(field: str) -> st.SearchStrategy[str]:
    match field:
        case "state" | "action":
            return st.sampled_from(ENUMERATED[field])
        case "tag":
            return st.sampled_from(NAMES)
        case "runs":
            return st.sampled_from(PRODUCTS)
        case "assigned":
            return st.sampled_from(RELEASES)
        case "id":
            return st.sampled_from([f"d-{number}" for number in range(4)])
    return words


def _several(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(values, min_size=1, max_size=3).map(tuple)


text_fields = st.one_of(st.sampled_from(TEXT_FIELDS), attributes)
patterns = st.lists(
    st.one_of(st.just("*"), st.sampled_from(("a", "b", "%", "_", "?", "[", "\\", "d-", "s"))), max_size=4
)
tests: st.SearchStrategy[Query] = st.one_of(
    st.one_of(text_fields, st.sampled_from(tuple(ENUMERATED))).flatmap(
        lambda field: st.builds(OneOf, st.just(field), _several(_values(field)))
    ),
    st.builds(Like, text_fields, patterns.map("".join)),
    st.builds(VersionIs, st.sampled_from(PRODUCTS), st.just("="), _several(st.sampled_from(VERSIONS))),
    st.builds(
        VersionIs,
        st.sampled_from(PRODUCTS),
        st.sampled_from(("<", "<=", ">", ">=")),
        st.sampled_from(VERSIONS).map(lambda version: (version,)),
    ),
    st.builds(
        Aged, st.sampled_from(("seen", "enrolled")), st.sampled_from(("<", "<=", ">", ">=")), st.sampled_from(AGES)
    ),
    st.just(NeverSeen()),
)


def queries(leaves: st.SearchStrategy[Query] = tests) -> st.SearchStrategy[Query]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(negate),
            st.lists(inner, min_size=2, max_size=3).map(every),
            st.lists(inner, min_size=2, max_size=3).map(some),
        ),
        max_leaves=6,
    )


with_filters = queries(st.one_of(tests, st.sampled_from(NAMES).map(Saved)))

_facts = st.builds(
    DeviceFacts,
    id=st.just(""),
    serial=words,
    hardware=words,
    state=st.sampled_from(ENUMERATED["state"]),
    enrolled_at=st.sampled_from(AGES).map(lambda age: NOW - timedelta(seconds=age)),
    seen_at=st.one_of(
        st.none(), st.sampled_from(AGES).map(lambda age: NOW.replace(microsecond=0) - timedelta(seconds=age))
    ),
    tags=st.frozensets(st.sampled_from(NAMES), max_size=2),
    attributes=st.dictionaries(st.sampled_from(("site", "rotor/kv")), words, max_size=2),
    installed=st.frozensets(st.tuples(st.sampled_from(PRODUCTS), st.sampled_from(VERSIONS)), max_size=2),
    assigned=st.frozensets(st.sampled_from(RELEASES), max_size=1),
    action=st.sampled_from(("", *_ACTIONS)),
)
fleets = st.lists(_facts, min_size=1, max_size=4)


def numbered(fleet: list[DeviceFacts]) -> list[DeviceFacts]:
    """Each with an id, and a serial of its own."""
    return [
        DeviceFacts(
            **{
                **{name: getattr(facts, name) for name in facts.__struct_fields__},
                "id": f"d-{number}",
                "serial": f"{facts.serial}{number}" if number else facts.serial,
            }
        )
        for number, facts in enumerate(fleet)
    ]


async def plant(session: AsyncSession, fleet: list[DeviceFacts]) -> None:
    """The rows of a fleet, as the services leave them; nothing is committed."""
    rows: dict[type, list[dict[str, Any]]] = {
        table: [] for table in (Device, DeviceTag, DeviceAttribute, DeviceSeen, InstalledComponent, Assignment, Action)
    }
    for number, facts in enumerate(fleet):
        rows[Device].append(_device(number, facts))
        rows[DeviceTag] += [{"device_id": facts.id, "tag": tag} for tag in facts.tags]
        rows[DeviceAttribute] += [
            {"device_id": facts.id, "name": name, "value": value} for name, value in facts.attributes.items()
        ]
        if facts.seen_at:
            rows[DeviceSeen].append({"number": number, "last_seen_s": int(facts.seen_at.timestamp())})
        rows[InstalledComponent] += [
            {
                "device_id": facts.id,
                "name": f"part-{part}",
                "type": "file",
                "product": product,
                "version": version,
                "release_counter": 1,
                "sha256": "0" * 64,
            }
            for part, (product, version) in enumerate(facts.installed)
        ]
        rows[Assignment] += [
            {"device_id": facts.id, "product": release.partition("@")[0], "release_id": release, "assigned_at": NOW}
            for release in facts.assigned
        ]
        if facts.action:
            # Older ones, which say nothing any more.
            rows[Action] += [_action(facts.id, 1, "superseded"), _action(facts.id, 2, "failed")]
            rows[Action].append(_action(facts.id, 10, facts.action))
    for table, values in rows.items():
        if values:
            await session.execute(insert(table), values)


async def plant_releases(session: AsyncSession) -> None:
    """What can be assigned."""
    await session.execute(insert(Product), [{"name": name, "team_role": "team-nav"} for name in PRODUCTS])
    await session.execute(
        insert(Release),
        [
            {
                "id": release,
                "product": release.partition("@")[0],
                "version": release.partition("@")[2],
                "team_role": "team-nav",
                "release_counter": number,
                "revert_counter": number,
                "must_pass": False,
                "manifest": b"{}",
                "state": "published",
                "created_by": "paul",
                "created_at": NOW,
                "yank_reason": "",
                "threshold": 1,
                "signed_by": "[]",
            }
            for number, release in enumerate(RELEASES)
        ],
    )


def _device(number: int, facts: DeviceFacts) -> dict[str, Any]:
    return {
        "id": facts.id,
        "number": number,
        "serial": facts.serial,
        "device_key": f"key-{number}",
        "hardware": facts.hardware,
        "state": facts.state,
        "token_sha256": f"token-{number}",
        "report_counter": 0,
        "desired_version": 0,
        "change_seq": number,
        "created_at": facts.enrolled_at,
    }


def _action(device: str, version: int, state: str) -> dict[str, Any]:
    return {
        "id": f"{device}.{version}",
        "device_id": device,
        "desired_version": version,
        "releases": "{}",
        "state": state,
        "detail": "",
        "created_at": NOW,
    }

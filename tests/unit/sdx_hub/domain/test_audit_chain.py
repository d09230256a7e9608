import hashlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_schemas.errors import SchemaError
from sdx_hub.domain.audit_chain import GENESIS, link

ENTRY: dict[str, Any] = {
    "seq": 1,
    "time": datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC),
    "actor": "alice",
    "action": "device.revoke",
    "subject": "d-1",
    "detail": {"serial": "S1"},
    "prev_hash": GENESIS,
}


def test_the_form_is_the_documented_one() -> None:
    """Spelt out by hand: an exported log is verified by other people's programs."""
    text = (
        '{"action":"device.revoke","actor":"alice","detail":{"serial":"S1"},"prev_hash":"' + "0" * 64 + '","seq":1,'
        '"subject":"d-1","time":"2026-03-01T12:00:00.000005+00:00"}'
    )
    assert link(**ENTRY) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", 2),
        ("time", ENTRY["time"] + timedelta(microseconds=1)),
        ("actor", "bob"),
        ("action", "device.accept"),
        ("subject", "d-2"),
        ("detail", {"serial": "S2"}),
        ("prev_hash", "1" * 64),
    ],
)
def test_every_field_is_bound(field: str, value: Any) -> None:
    assert link(**{**ENTRY, field: value}) != link(**ENTRY)


def test_the_same_moment_in_another_zone_is_the_same_entry() -> None:
    elsewhere = ENTRY["time"].astimezone(timezone(timedelta(hours=9)))
    assert link(**{**ENTRY, "time": elsewhere}) == link(**ENTRY)


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=8))))
def test_the_order_of_details_does_not_matter(detail: dict[str, Any]) -> None:
    turned = dict(reversed(detail.items()))
    assert link(**{**ENTRY, "detail": detail}) == link(**{**ENTRY, "detail": turned})


def test_a_float_has_no_canonical_form() -> None:
    with pytest.raises(SchemaError):
        link(**{**ENTRY, "detail": {"battery": 0.5}})

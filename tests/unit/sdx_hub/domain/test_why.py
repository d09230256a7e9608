"""Why a device is or is not updating: the nearest obstacle is named, and what would move it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sdx_hub.domain.why import SILENT_AFTER, explain

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACTION = "d-1.4"


def device(**fields: Any) -> dict[str, Any]:
    seen = (NOW - timedelta(seconds=30)).isoformat()
    base = {
        "id": "d-1",
        "serial": "craft-01",
        "state": "accepted",
        "device_key": "ab" * 32,
        "last_seen_at": seen,
        "assignments": {"nav": "nav@1.4.0"},
        "components": [{"product": "nav", "version": "1.3.0"}],
        "action": {"id": ACTION, "state": "open", "code": "", "detail": ""},
    }
    return base | fields


def progress(state: str, code: str = "", action: str = ACTION) -> dict[str, Any]:
    return {"kind": "progress", "detail": {"action": action, "state": state, "code": code, "detail": ""}}


def ended(state: str, code: str = "", detail: str = "") -> dict[str, Any]:
    return {"id": ACTION, "state": state, "code": code, "detail": detail}


def test_pending_shows_the_key_to_compare() -> None:
    answer = explain(device(state="pending"), [], NOW)
    assert answer.verdict == "pending"
    assert "ab" * 32 in answer.changes[0]
    assert "sdx device accept craft-01" in answer.changes[0]


def test_revoked() -> None:
    assert explain(device(state="revoked"), [], NOW).verdict == "revoked"


def test_nothing_assigned_and_why_not_any_more() -> None:
    answer = explain(device(assignments={}, action=None), [], NOW)
    assert (answer.verdict, answer.changes) == ("not_assigned", ("sdx device assign PRODUCT@VERSION craft-01",))
    answer = explain(device(assignments={}, action=ended("cancelled", "release_yanked")), [], NOW)
    assert "release_yanked" in answer.reasons[0]


@pytest.mark.parametrize("seen", [None, (NOW - SILENT_AFTER - timedelta(seconds=1)).isoformat()])
def test_a_silent_device_is_the_first_reason(seen: str | None) -> None:
    answer = explain(device(last_seen_at=seen), [progress("DOWNLOADING")], NOW)
    assert answer.verdict == "waiting"
    assert "never polled" in answer.reasons[0] or "10 min ago" in answer.reasons[0]
    assert "reach the hub" in answer.changes[0]


@pytest.mark.parametrize(
    ("events", "verdict", "word"),
    [
        ([], "updating", "not taken the instruction up"),
        ([progress("DOWNLOADING"), progress("OFFERED")], "updating", "downloads"),
        ([progress("READY")], "waiting", "flight gate"),
        ([progress("DOWNLOADING", "budget_exhausted")], "waiting", "budget_exhausted"),
        ([progress("TRIAL")], "updating", "on trial"),
        ([progress("TRIAL", action="d-1.3"), progress("OFFERED")], "updating", "checks the instruction"),
    ],
)
def test_an_open_action_is_where_the_device_says(events: list[dict[str, Any]], verdict: str, word: str) -> None:
    answer = explain(device(), events, NOW)
    assert answer.verdict == verdict
    assert any(word in reason for reason in answer.reasons), answer


def test_up_to_date_needs_the_inventory_to_say_so() -> None:
    done = device(action=ended("success"), components=[{"product": "nav", "version": "1.4.0"}])
    assert explain(done, [], NOW).verdict == "up_to_date"
    answer = explain(device(action=ended("success")), [], NOW)
    assert answer.verdict == "failed"
    assert "nav runs 1.3.0, assigned is 1.4.0" in answer.reasons[0]


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (ended("rolled_back", "health_failed", "exit 1"), ("rolled back", "health_failed", "exit 1")),
        (ended("refused", "wrong_hardware"), ("refused", "lists this hardware")),
        (ended("failed", "payload_digest_known_bad"), ("failed", "corrected")),
    ],
)
def test_how_it_ended_and_how_to_go_on(action: dict[str, Any], words: tuple[str, ...]) -> None:
    answer = explain(device(action=action), [], NOW)
    text = " ".join((*answer.reasons, *answer.changes))
    assert answer.verdict == "failed"
    for word in words:
        assert word in text
    assert "sdx device assign nav@1.4.0 craft-01" in answer.changes[-1]
    assert any("runs nav@1.3.0" in reason for reason in answer.reasons)

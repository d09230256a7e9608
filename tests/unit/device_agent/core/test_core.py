"""Backoff, journal and plan: what is decided without any I/O. (The table of states: tests/property.)"""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.core import journal as journals
from device_agent.core.backoff import delay_s, is_final, parse_retry_after
from device_agent.core.errors import SettingsError, TrustError
from device_agent.core.journal import BadSet, Journal, advance, forget_bad
from device_agent.core.machine import diagram
from device_agent.core.plan import (
    Facts,
    Instruction,
    Plan,
    ReleaseRecord,
    Running,
    Target,
    Verified,
    check_instruction,
    make_plan,
)
from device_agent.core.states import Healthy, Trial
from firmware_schemas.release import Constraint, HealthCheck, ReleaseManifest, TargetCustom
from tests.support.publisher import Payload
from tests.support.static_hub import TEAM, manifest_of

PARTS = [Payload("server", {"VERSION": b"1"}, ("./check",)), Payload("params", b"x")]


@given(st.integers(-5, 10_000), st.floats(0, 10**6))
def test_a_delay_is_bounded_and_never_sooner_than_asked(attempt: int, asked_s: float) -> None:
    waited_s = delay_s(attempt, random.uniform, longest_s=900.0, retry_after_s=asked_s)
    assert min(asked_s, 900.0) <= waited_s <= 1800.0


def test_the_ceiling_doubles() -> None:
    assert [delay_s(attempt, lambda _a, b: b) for attempt in (1, 2, 3, 20)] == [2.0, 4.0, 8.0, 900.0]


def test_jitter_is_full() -> None:
    assert delay_s(5, lambda a, _b: a) == 0.0


@pytest.mark.parametrize(
    ("status", "final"), [(400, True), (404, True), (408, False), (429, False), (499, True), (500, False), (0, False)]
)
def test_which_statuses_are_final(status: int, *, final: bool) -> None:
    assert is_final(status) is final


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, 0), ("", 0), ("17", 17), (" 5 ", 5), ("-1", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("1e9", 0), ("²", 0)],
)
def test_retry_after(text: str | None, seconds: float) -> None:
    assert parse_retry_after(text) == seconds


def facts(**changes: Any) -> Facts:
    fields: dict[str, Any] = {
        "device": "d",
        "hardware": "rpi-cm4",
        "types": frozenset({"directory", "file"}),
        "floors": {},
        "releases": (),
        "running": {},
        "slots": {},
        "bad": (),
    }
    return Facts(**(fields | changes))


def targets_of(manifest: ReleaseManifest) -> tuple[Target, ...]:
    from firmware_schemas.release import targets_of as listed

    return tuple(Target(t.path, t.length, t.sha256, t.custom) for t in listed(TEAM, manifest))


def plan(*manifests: ReleaseManifest, **changes: Any) -> Plan:
    targets = [target for manifest in manifests for target in targets_of(manifest)]
    by_path = {f"{TEAM}/{m.product}/{m.version}/release.json": m for m in manifests}
    return make_plan(Instruction("d", "d.1", tuple(targets)), by_path, facts(**changes), longest_trial_s=100).value


def code_of(*manifests: ReleaseManifest, **changes: Any) -> str:
    with pytest.raises(TrustError) as caught:
        plan(*manifests, **changes)
    return caught.value.code


def test_a_plan_takes_the_slot_that_is_not_current() -> None:
    made = plan(manifest_of("app", 1, PARTS), slots={"server": "a", "params": "b"})
    assert {item.component.name: (item.slot, item.previous) for item in made.items} == {
        "server": ("b", "a"),
        "params": ("a", "b"),
    }


def test_what_runs_already_is_recorded_and_not_installed() -> None:
    manifest = manifest_of("app", 1, PARTS)
    part = manifest.components[1]
    made = plan(manifest, running={"params": Running("file", "params", part.sha256)}, slots={"params": "a"})
    assert [item.component.name for item in made.items] == ["server"]
    assert [component.name for component in made.components] == ["params", "server"]


def test_the_devices_own_bound_of_a_trial_counts() -> None:
    assert plan(manifest_of("app", 1, PARTS, trial_s=50)).trial_s == 50
    assert plan(manifest_of("app", 1, PARTS, trial_s=5000)).trial_s == 100


def test_probes_of_components_that_stay_are_asked_too() -> None:
    manifest = manifest_of("app", 1, PARTS)
    part = manifest.components[0]
    made = plan(manifest, running={"server": Running("directory", "server", part.sha256)})
    assert [probe.component for probe in made.probes] == ["server"]
    assert part.health == HealthCheck(("./check",), 10)


def test_constraints_of_what_stays_hold_too() -> None:
    base = ReleaseRecord("base", "1.0.0", 1, conflicts=(Constraint("app", 2, 5),))
    assert plan(manifest_of("app", 1, PARTS), releases=(base,))
    assert code_of(manifest_of("app", 2, PARTS), releases=(base,)) == "incompatible"


def test_requirements_may_be_met_by_the_same_update() -> None:
    base = manifest_of("base", 3, [Payload("base", b"x")])
    app = manifest_of("app", 1, PARTS, requires=(Constraint("base", 3, 3),))
    assert plan(base, app)
    assert code_of(app, releases=(ReleaseRecord("base", "4", 4),)) == "incompatible"


def test_two_releases_of_one_product() -> None:
    first, second = manifest_of("app", 1, PARTS[:1]), manifest_of("app", 2, PARTS[1:])
    assert code_of(first, second) == "incompatible"


def test_a_bad_set_is_refused_as_a_whole_and_its_healthy_part_is_not_held_against_others() -> None:
    sick = manifest_of("app", 1, PARTS)
    bad = frozenset(part.sha256 for part in sick.components)
    assert code_of(sick, bad=(bad,)) == "payload_digest_known_bad"
    repaired = manifest_of("app", 2, [PARTS[0], Payload("params", b"repaired")])
    assert plan(repaired, bad=(bad,)).items


def test_a_component_twice_and_an_unknown_type() -> None:
    first = targets_of(manifest_of("app", 1, PARTS))
    with pytest.raises(TrustError) as caught:
        check_instruction(Instruction("d", "d.1", (*first, first[1])), facts())
    assert caught.value.code == "component_twice"
    odd = Target("x/y", 1, "a" * 64, TargetCustom("p", "1", 1, ("any",), component="odd", type="warp"))
    with pytest.raises(TrustError) as caught:
        check_instruction(Instruction("d", "d.1", (odd,)), facts())
    assert caught.value.code == "component_unknown_type"


def test_a_journal_survives_and_a_damaged_one_is_not_guessed() -> None:
    journal = Journal(floors={"app": 3}, bad=(BadSet(("a" * 64,), ("x",), "d.1", "health_failed"),), finished=("d.1",))
    assert journals.decode(journals.encode(journal)) == journal
    for raw in (b"", b"{", b'{"state":{"state":"FLYING"}}', b'{"floors":{"app":"x"}}'):
        with pytest.raises(SettingsError):
            journals.decode(raw)


def test_a_commit_never_lowers_a_floor() -> None:
    """The verifier refuses a smaller counter; the journal does not rely on that."""
    made = Verified(plan(manifest_of("app", 1, PARTS)))
    trying = Journal(state=Trial(made, 1, "boot", 0), floors={"app": 7, "base": 2})
    assert advance(trying, Healthy()).floors == {"app": 7, "base": 2}


@pytest.mark.parametrize(("had", "revert", "floor"), [(0, None, 5), (0, 2, 2), (0, 0, 0), (3, 2, 3), (7, 2, 7)])
def test_the_floor_after_a_commit_is_what_the_manifest_allows_to_go_back_to(
    had: int, revert: int | None, floor: int
) -> None:
    made = Verified(plan(manifest_of("app", 5, PARTS, revert_counter=revert)))
    trying = Journal(state=Trial(made, 1, "boot", 0), floors={"app": had})
    assert advance(trying, Healthy()).floors == {"app": floor}


def test_a_journal_of_an_agent_that_knew_no_way_back_is_read() -> None:
    record = b'{"product":"app","version":"5","release_counter":5,"requires":[],"conflicts":[]}'
    journal = journals.decode(b'{"floors":{"app":5},"releases":[' + record + b"]}")
    assert [(kept.revert_counter, kept.floor) for kept in journal.releases] == [(None, 5)]


def test_forgetting_what_was_bad() -> None:
    journal = Journal(bad=(BadSet(("aa11", "bb22"), (), "d.1", ""), BadSet(("cc33",), (), "d.2", "")))
    assert [entry.digests for entry in forget_bad(journal, "bb").bad] == [("cc33",)]
    assert forget_bad(journal, "dd") == journal


def test_the_page_shows_the_table() -> None:
    """The picture in docs/agent.md is what `device_agent.core.machine.diagram()` returns."""
    from pathlib import Path

    page = (Path(__file__).parents[4] / "docs" / "agent.md").read_text()
    assert f"```mermaid\n{diagram()}\n```" in page

"""Rollouts through real HTTP: planned, started, looked at, stopped, explained, and proved from their log."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sdx_hub.cli.rollout_replay import digest, replay
from tests.support.fleet import Fleet
from tests.support.simulated import SimulatedFleet
from tests.support.simulated_device import SUCCESS, Device, Fate, Offer
from tests.support.waiting import until

DEVICES = 6
BAD_ONE = "sim-0005"
NOW = {"soak": {"seconds": 0}, "silent_after_s": 36_000}
"""Waves without a soak; nobody is missed."""


@pytest.fixture(scope="module")
def crafts(fleet: Fleet) -> Iterator[SimulatedFleet]:
    """At work through all tests; one of them fails whatever is tagged `bad`."""
    broken: list[str] = []

    def fate(device: Device, offer: Offer) -> Fate:
        fails = device.serial == BAD_ONE and broken and broken[0] in offer.releases
        return Fate("rolled_back", "trial_starts_used_up") if fails else SUCCESS

    crafts = SimulatedFleet([fleet.url], DEVICES, fate=fate, step_s=0.02, poll_s=0.3)
    crafts.enrol(fleet.url, fleet.admin_token)
    crafts.broken = broken  # type: ignore[attr-defined]
    with crafts.at_work():
        yield crafts


@pytest.fixture
def olga(fleet: Fleet, crafts: SimulatedFleet) -> Iterator[httpx.Client]:
    with fleet.client(fleet.token("olga", "operator")) as client:
        yield client


@pytest.fixture(scope="module")
def finished(fleet: Fleet, crafts: SimulatedFleet) -> str:
    """The id of a rollout that went well, in two waves."""
    with fleet.client() as client:
        order = {"release": fleet.publish_next(), "waves": ["1", "100%"], **NOW}
        rollout = str(client.post("/api/v1/rollouts", json=order).raise_for_status().json()["id"])
        wait(client, rollout, "finished")
    return rollout


def show(client: httpx.Client, rollout: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/rollouts/{rollout}").raise_for_status().json()
    return found


def wait(client: httpx.Client, rollout: str, state: str) -> dict[str, Any]:
    found = [show(client, rollout)]

    def there() -> bool:
        found[0] = show(client, rollout)
        return bool(found[0]["state"] == state)

    try:
        until(there, every_s=0.1)
    except AssertionError as error:
        raise AssertionError(f"not {state} but {found[0]}") from error
    return found[0]


def everything(client: httpx.Client, path: str, limit: int = 3) -> list[dict[str, Any]]:
    """All pages of a list."""
    answer = client.get(f"/api/v1{path}", params={"limit": limit}).raise_for_status()
    found = answer.json()["items"]
    while following := answer.links.get("next"):
        answer = client.get(following["url"]).raise_for_status()
        assert answer.json()["items"]
        found += answer.json()["items"]
    return found


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_plan_changes_nothing(fleet: Fleet, olga: httpx.Client) -> None:
    before = everything(olga, "/rollouts")
    order = {"release": fleet.publish_next(), "query": 'serial ~ "sim-*"', "waves": ["1", "50%", "100%"]}
    plan = olga.post("/api/v1/rollouts/plan", json=order).raise_for_status().json()
    assert (plan["members"], [wave["devices"] for wave in plan["waves"]]) == (DEVICES, [1, 2, 3])
    assert plan["order"]["soak"] == {"seconds": 600, "flights": 0, "hours": 0}
    assert everything(olga, "/rollouts") == before
    with fleet.client(fleet.token("vera", "viewer")) as vera:
        assert vera.post("/api/v1/rollouts/plan", json=order).status_code == 200
        assert refused(vera.post("/api/v1/rollouts", json=order)) == (403, "not_allowed")


@pytest.mark.parametrize(
    ("order", "status", "code"),
    [
        ({"release": "nobody@1.0.0"}, 404, "release_not_found"),
        ({"release": "mavsdk@3.1.0", "waves": ["nine"]}, 400, "waves_invalid"),
        ({"release": "mavsdk@3.1.0", "query": "tga = a"}, 400, "query_invalid"),
        ({"release": "mavsdk@3.1.0", "windows": ["25:00-26:00"]}, 400, "window_invalid"),
        ({"release": "mavsdk@3.1.0", "gate": {"base_rate": 0.9}}, 400, "bad_input"),
        ({"release": "mavsdk@3.1.0", "wave": []}, 400, "bad_input"),
    ],
)
def test_an_order_that_makes_no_sense(
    olga: httpx.Client, finished: str, order: dict[str, Any], status: int, code: str
) -> None:
    for path in ("/api/v1/rollouts", "/api/v1/rollouts/plan"):
        assert refused(olga.post(path, json=order)) == (status, code)


def test_from_the_order_to_the_end(olga: httpx.Client, finished: str) -> None:
    found = show(olga, finished)
    assert (found["state"], found["members"], found["wave"]) == ("finished", {"committed": DEVICES}, 2)
    assert [(wave["label"], wave["size"], wave["members"]) for wave in found["waves"]] == [
        ("1", 1, {"committed": 1}),
        ("100%", DEVICES - 1, {"committed": DEVICES - 1}),
    ]
    assert all(wave["closed_at"] for wave in found["waves"])
    assert (found["gate"]["good"], found["gate"]["bad"]) == (DEVICES, 0)
    assert sum(sum(stratum["members"].values()) for stratum in found["strata"]) == DEVICES
    assert found["approval"]["kind"] == "signatures"
    assert len(found["approval"]["signed_by"]) >= 2


def test_a_repeated_order_takes_effect_once(fleet: Fleet, olga: httpx.Client) -> None:
    order = {"release": fleet.publish_next(), "query": 'serial ~ "nobody-*"'}
    first, again = (
        olga.post("/api/v1/rollouts", json=order, headers={"idempotency-key": "the-same"}) for _ in range(2)
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"


def test_a_watcher_is_told_what_is_new_and_nothing_else(olga: httpx.Client, finished: str) -> None:
    def unchanged() -> bool:
        """What passes with time alone is another version now and then."""
        seen = olga.get(f"/api/v1/rollouts/{finished}").raise_for_status().headers["etag"]
        again = olga.get(f"/api/v1/rollouts/{finished}", headers={"if-none-match": f'"other", {seen}'})
        assert again.headers["etag"]
        return again.status_code == 304 and not again.content

    until(unchanged)
    other = olga.get(f"/api/v1/rollouts/{finished}", headers={"if-none-match": '"other"'})
    assert other.status_code == 200


def test_lists(fleet: Fleet, olga: httpx.Client, finished: str) -> None:
    listed = everything(olga, "/rollouts", limit=1)
    assert finished in [each["id"] for each in listed]
    assert listed == sorted(listed, key=lambda each: -int(each["id"].removeprefix("ro-")))
    by_state = olga.get("/api/v1/rollouts", params={"state": "finished", "product": "mavsdk"}).json()["items"]
    assert {each["state"] for each in by_state} == {"finished"}
    assert next(each for each in by_state if each["id"] == finished)["members"] == {"committed": DEVICES}
    assert olga.get("/api/v1/rollouts", params={"product": "other"}).json() == {"items": []}
    assert refused(olga.get("/api/v1/rollouts", params={"state": "lost"})) == (400, "invalid_state")
    for path in (f"/rollouts/{finished}/devices?state=lazy", f"/rollouts/{finished}/devices?wave=0"):
        assert olga.get(f"/api/v1{path}").status_code == 400
    for path in ("", "/devices", "/outcomes", "/decisions", "/why"):
        assert refused(olga.get(f"/api/v1/rollouts/ro-999{path}")) == (404, "rollout_unknown")
        assert olga.get(f"/api/v1/rollouts/x%20y{path}").status_code == 404


def test_members_in_pages(olga: httpx.Client, finished: str) -> None:
    members = everything(olga, f"/rollouts/{finished}/devices", limit=2)
    assert sorted(each["serial"] for each in members) == [f"sim-{number:04}" for number in range(DEVICES)]
    assert sorted(each["position"] for each in members) == list(range(members[0]["position"] * 0 + 1, DEVICES + 1))
    assert {each["state"] for each in members} == {"committed"}
    assert all(each["since"] and each["attempt"] == 1 for each in members)
    first = olga.get(f"/api/v1/rollouts/{finished}/devices", params={"wave": 1, "state": "committed"}).json()["items"]
    assert [each["position"] for each in first] == [1]
    assert olga.get(f"/api/v1/rollouts/{finished}/devices", params={"state": "failed"}).json() == {"items": []}


def test_every_decision_is_made_again_from_the_log(olga: httpx.Client, finished: str) -> None:
    decisions = everything(olga, f"/rollouts/{finished}/decisions", limit=2)
    outcomes = everything(olga, f"/rollouts/{finished}/outcomes", limit=4)
    replayed = list(replay(decisions, outcomes, show(olga, finished)))
    assert [each.differs for each in replayed] == [""] * len(decisions)
    assert sum(each.decided is True for each in replayed) >= 3, "two waves opened, and an end"
    assert {each["rule"] for each in decisions} >= {"open_wave", "finish"}
    assert all(len(each["sha256"]) == 64 for each in decisions)
    committed = [each["serial"] for each in outcomes if each["state"] == "committed"]
    assert sorted(committed) == [f"sim-{number:04}" for number in range(DEVICES)]


def test_decisions_are_chained_to_the_audit_log(fleet: Fleet, olga: httpx.Client, finished: str) -> None:
    with fleet.client() as admin:
        audit = everything(admin, "/audit", limit=100)
    kept = [each["detail"]["sha256"] for each in audit if each["action"] == "rollout.decide"]
    for decision in everything(olga, f"/rollouts/{finished}/decisions"):
        assert decision["sha256"] == digest(decision), "what is kept is what is shown"
        assert decision["sha256"] in kept


def test_why(olga: httpx.Client, finished: str) -> None:
    def why(**about: Any) -> dict[str, Any]:
        found: dict[str, Any] = olga.get(f"/api/v1/rollouts/{finished}/why", params=about).raise_for_status().json()
        return found

    assert why()["verdict"] == "finished"
    assert why(wave=1)["verdict"] == "closed"
    assert why(device="sim-0001")["verdict"] == "updated"
    path = f"/api/v1/rollouts/{finished}/why"
    assert refused(olga.get(path, params={"wave": 9})) == (404, "wave_unknown")
    assert refused(olga.get(path, params={"device": "nobody"})) == (404, "device_unknown")


def test_a_pinned_device_is_left_out_and_says_so(fleet: Fleet, olga: httpx.Client) -> None:
    path = "/api/v1/devices/sim-0002"
    pinned = olga.put(f"{path}/pin", json={"reason": "for the museum"}).raise_for_status().json()
    assert (pinned["pin"]["reason"], pinned["pin"]["pinned_by"]) == ("for the museum", "olga")
    order = {"release": fleet.publish_next(), "query": 'serial ~ "sim-000[12]"', **NOW}
    order["query"] = "serial in (sim-0001, sim-0002)"
    plan = olga.post("/api/v1/rollouts/plan", json=order).raise_for_status().json()
    assert [(each["code"], each["devices"]) for each in plan["left_out"]] == [("pinned", 1)]
    rollout = olga.post("/api/v1/rollouts", json=order).raise_for_status().json()["id"]
    ended = wait(olga, rollout, "finished")
    assert (ended["members"], ended["left_out"]) == ({"committed": 1}, {"pinned": 1})
    answer = olga.get(f"/api/v1/rollouts/{rollout}/why", params={"device": "sim-0002"}).json()
    assert (answer["verdict"], answer["changes"]) == ("left_out", ["sdx device unpin sim-0002"])
    answer = olga.get(f"/api/v1/rollouts/{rollout}/why", params={"device": "sim-0003"}).json()
    assert "does not match the query" in answer["reasons"][1]
    assert olga.delete(f"{path}/pin").raise_for_status().json()["pin"] is None
    assert olga.put("/api/v1/devices/nobody/pin", json={"reason": "x"}).status_code == 404
    assert olga.put(f"{path}/pin", json={}).status_code == 400


def stopped_at_the_first(fleet: Fleet, crafts: SimulatedFleet, client: httpx.Client) -> str:
    """A rollout that paused because the first device of two did not stay up."""
    release = fleet.publish_next()
    crafts.broken[:] = [release]  # type: ignore[attr-defined]
    order = {"release": release, "query": f"serial in ({BAD_ONE}, sim-0004)", **NOW}
    order["waves"] = [f"serial = {BAD_ONE}", "100%"]
    rollout = str(client.post("/api/v1/rollouts", json=order).raise_for_status().json()["id"])
    wait(client, rollout, "paused")
    return rollout


def test_a_critical_outcome_pauses_and_people_decide(fleet: Fleet, crafts: SimulatedFleet, olga: httpx.Client) -> None:
    rollout = stopped_at_the_first(fleet, crafts, olga)
    found = show(olga, rollout)
    assert (found["code"], found["waits_for"]) == ("critical_outcome", "person")
    assert "trial_starts_used_up" in found["reason"]

    def command(name: str, **body: Any) -> httpx.Response:
        return olga.post(f"/api/v1/rollouts/{rollout}/{name}", json=body)

    assert refused(command("advance", reason="now")) == (409, "rollout_state")
    assert refused(command("approve")) == (403, "not_allowed")
    with fleet.client(fleet.token("vera", "viewer")) as vera:
        assert refused(vera.post(f"/api/v1/rollouts/{rollout}/resume", json={})) == (403, "not_allowed")
    assert command("pause").status_code in {200, 409}
    assert command("pause", because="x").status_code == 400
    waiting = olga.get("/api/v1/devices/sim-0004/rollouts").json()["rollouts"][0]
    assert (waiting["rollout"]["id"], waiting["member"]["state"]) == (rollout, "queued")
    failed = olga.get(f"/api/v1/devices/{BAD_ONE}/rollouts").json()["rollouts"][0]
    assert failed["member"]["state"] == "rolled_back"
    assert refused(command("skip", devices=[BAD_ONE], reason="it is known")) == (409, "member_state")
    command("skip", devices=["sim-0004"], reason="it flies tonight").raise_for_status()
    until(lambda: show(olga, rollout)["members"] == {"rolled_back": 1, "skipped": 1}, every_s=0.1)
    assert command("skip", devices=[], reason="nobody").status_code == 400
    assert refused(command("skip", devices=["nobody"], reason="x")) == (404, "device_unknown")
    reverting = command("revert", reason="enough").raise_for_status().json()
    assert reverting["state"] in {"reverting", "reverted"}
    ended = wait(olga, rollout, "reverted")
    assert "committed" not in ended["members"]
    assert refused(command("resume")) == (409, "rollout_state")
    replayed = replay(
        everything(olga, f"/rollouts/{rollout}/decisions"),
        everything(olga, f"/rollouts/{rollout}/outcomes"),
        show(olga, rollout),
    )
    assert [each.differs for each in replayed if each.differs] == []


def test_retry_after_the_cause_is_gone(fleet: Fleet, crafts: SimulatedFleet, olga: httpx.Client) -> None:
    rollout = stopped_at_the_first(fleet, crafts, olga)
    crafts.broken.clear()  # type: ignore[attr-defined]
    path = f"/api/v1/rollouts/{rollout}"
    olga.post(f"{path}/retry", json={"devices": [BAD_ONE]}).raise_for_status()
    olga.post(f"{path}/resume", json={"reason": "the battery was empty"}).raise_for_status()
    assert wait(olga, rollout, "finished")["members"] == {"committed": 2}


def test_cancel_and_halt(fleet: Fleet, olga: httpx.Client, crafts: SimulatedFleet) -> None:
    for name, state in (("halt", "halted"), ("cancel", "cancelled")):
        order = {"release": fleet.publish_next(), "waves": ["1", "100%"], "windows": []} | NOW
        order["soak"] = {"seconds": 3_600}
        order["query"] = "serial in (sim-0000, sim-0001)"
        rollout = olga.post("/api/v1/rollouts", json=order).raise_for_status().json()["id"]
        until(lambda rollout=rollout: show(olga, rollout)["members"].get("committed") == 1, every_s=0.1)
        until(lambda rollout=rollout: show(olga, rollout)["waits_for"] == "soak_time", every_s=0.1)
        answer = olga.post(f"/api/v1/rollouts/{rollout}/{name}", json={"reason": "enough"}).raise_for_status()
        assert answer.json()["state"] == state
        assert "enough" in show(olga, rollout)["reason"]


def test_a_second_person(fleet: Fleet, olga: httpx.Client) -> None:
    order = {"release": fleet.publish_next(), "query": "serial = sim-0003", "second_person": True, **NOW}
    rollout = olga.post("/api/v1/rollouts", json=order).raise_for_status().json()["id"]
    assert show(olga, rollout)["state"] == "approval"
    why = olga.get(f"/api/v1/rollouts/{rollout}/why").json()
    assert "sdx rollout approve" in why["changes"][0]
    with fleet.client(fleet.token("olga", "admin")) as same_name:
        assert refused(same_name.post(f"/api/v1/rollouts/{rollout}/approve", json={})) == (403, "same_person")
    with fleet.client(fleet.token("anna", "approver")) as anna:
        anna.post(f"/api/v1/rollouts/{rollout}/approve", json={"reason": "looks right"}).raise_for_status()
    ended = wait(olga, rollout, "finished")
    assert (ended["approved_by"], ended["approval"]["kind"]) == ("anna", "second_person")

"""A poll token is replaced: asked for by an operator, made by the real agent, and the old one is worth nothing then."""

import time
from pathlib import Path

import httpx

from tests.support.fleet import Fleet


def poll(fleet: Fleet, token: str) -> int:
    return httpx.get(f"{fleet.url}/device/v1/poll", headers={"authorization": f"Bearer {token}"}).status_code


def test_an_operator_has_a_craft_replace_its_token(fleet: Fleet, tmp_path: Path) -> None:
    craft = fleet.new_craft(tmp_path / "craft", fleet.url)
    assert craft.run_once().code in {0, 3}
    old = craft.token
    with fleet.client() as people:
        asked = people.post(f"/api/v1/devices/{craft.device_id}/rotate-token")
        assert asked.status_code == 200, asked.text
        assert asked.json()["rotation_wanted"] is True
    assert craft.run_once().code in {0, 3}
    assert craft.token != old
    assert poll(fleet, craft.token) == 200
    assert poll(fleet, old) == 401
    craft.run_once()
    with fleet.client() as people:
        until = time.monotonic() + 30
        while people.get(f"/api/v1/devices/{craft.device_id}").json()["rotation_wanted"]:
            assert time.monotonic() < until, "the first use is written a second later at the most"
            time.sleep(0.05)
        kinds = [event["kind"] for event in people.get(f"/api/v1/devices/{craft.device_id}/timeline").json()["items"]]
    assert {"rotation_wanted", "token_announced"} <= set(kinds)

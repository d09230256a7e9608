"""What is measured at a million devices works with a few hundred, and their rows are those of an enrolment."""

from pathlib import Path

import pytest

from bench import fleet_of_rows, million, rollout
from tests.support.fleet import start_fleet


def test_multiplied_devices_are_devices_like_the_one_that_enrolled(tmp_path: Path) -> None:
    with start_fleet(tmp_path / "fleet") as fleet:
        example = fleet_of_rows.enrol_first(fleet)
        fleet.hub.stop()
        url = f"sqlite:///{fleet.hub.data / 'hub.db'}"
        fleet_of_rows.load(url, example, 0, 20)
        fleet_of_rows.load(url, example, 20, 5)
        fleet.hub.start()
        with fleet.client() as client:
            listed = client.get("/api/v1/devices").json()["items"]
            assert len(listed) == 26
            assert [device["tags"] for device in listed[1:]] == [[fleet_of_rows.tag(index)] for index in range(25)]
            own = {"id", "serial", "device_key", "tags"}
            alike = [{name: value for name, value in device.items() if name not in own} for device in listed]
            assert all(device == alike[0] for device in alike)
            for index, shown in enumerate(listed[1:]):
                device = fleet_of_rows.device(index)
                assert shown["id"] == device.id
                headers = {"authorization": f"Bearer {device.token}", "if-none-match": '"0"'}
                assert client.get("/device/v1/poll", headers=headers).status_code == 304
        # The numbers go on behind them.
        assert fleet.device_token


@pytest.mark.slow
def test_a_few_hundred_devices_on_two_replicas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(million, "STARTS", 1)
    monkeypatch.setattr(million, "BEFORE_S", 0.5)
    monkeypatch.setattr(million, "STALE_S", 3.0)
    figures = million.measure(tmp_path, million.Plan(devices=300, rate=300.0, seconds=1.0, connections=20))
    assert figures["sweep"]["last_seen_stored"] == 300
    assert figures["sweep"]["statuses"] == {"304": 300}
    assert figures["release"]["heard"] == figures["release"]["devices"] == 30
    assert million.table(figures).count("\n") > 5


@pytest.mark.slow
def test_a_tick_has_the_same_statements_whatever_the_size_of_the_rollout(tmp_path: Path) -> None:
    small, large = (rollout.measure(tmp_path / str(size), size, changed=20, idle=2, busy=2) for size in (100, 1_000))
    assert (small.idle_statements, small.busy_statements) == (large.idle_statements, large.busy_statements)
    assert small.idle_statements < small.busy_statements <= large.most_statements < 100
    assert rollout.table({100: small, 1_000: large}).count("\n") > 5

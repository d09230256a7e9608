"""Simulated devices are devices like real ones to the hub, and outlive the hub that they talk to."""

from pathlib import Path

from tests.support.fleet import start_fleet
from tests.support.publisher import Payload
from tests.support.simulated import SimulatedFleet
from tests.support.simulated_device import SUCCESS, Device, Fate, Offer
from tests.support.waiting import until

FATES = {
    "sim-0001": Fate("rolled_back", "health_failed"),
    "sim-0002": Fate(silent_after="INSTALLING"),
}


def fate(device: Device, _offer: Offer) -> Fate:
    return FATES.get(device.serial, SUCCESS)


def test_each_meets_its_fate_although_the_hub_is_killed(tmp_path: Path) -> None:
    with start_fleet(tmp_path / "fleet") as fleet:
        nowhere = "http://127.0.0.1:9"
        devices = SimulatedFleet([nowhere, fleet.url], 4, fate=fate, step_s=0.02, poll_s=0.1)
        devices.enrol(fleet.url, fleet.admin_token)
        fleet.publisher.publish("sim", "1.0.0", [Payload("app", b"one")])
        fleet.publisher.assign("sim@1.0.0", *(device.id for device in devices.devices))
        devices.turn.open_for = 1
        with devices.at_work():
            until(lambda: devices.turn.passed == 1)
            fleet.hub.kill()
            fleet.restart_hub()
            devices.turn.open_for = 3
            until(lambda: sum(len(device.ended) for device in devices.devices) == 3)
        heard = devices.heard_of("sim@1.0.0")
        assert heard == {device.id: [f"{device.id}.1"] for device in devices.devices}
        with fleet.client() as client:
            listed = client.get("/api/v1/devices").raise_for_status().json()["items"]
            states = {device["serial"]: device["action"]["state"] for device in listed}
            assert states == {
                "sim-0000": "success",
                "sim-0001": "rolled_back",
                "sim-0002": "open",
                "sim-0003": "success",
            }
            for device in devices.devices:
                shown = client.get(f"/api/v1/devices/{device.id}").raise_for_status().json()
                running = [f"{part['product']}@{part['version']}" for part in shown["components"]]
                assert tuple(running) == device.running
                assert bool(running) == (states[device.serial] == "success")
        assert not any(device.refused for device in devices.devices)
        assert sum(device.lost for device in devices.devices) > 0

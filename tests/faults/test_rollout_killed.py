"""Two hub processes on PostgreSQL are killed (SIGKILL) in turn, at random moments, while a rollout goes on.

Two hundred simulated devices speak the real protocol to whichever hub answers, and remember every action that they
heard of. Results are let through a few for each kill, so that the rollout lasts as long as the killing.
"""

import random
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.moment import Moments
from tests.support import rollout_log, rollouts
from tests.support.hub import HubProcess
from tests.support.publisher import Payload
from tests.support.replicas import two_replicas
from tests.support.simulated import SimulatedFleet
from tests.support.simulated_device import SUCCESS, Device, Fate, Offer
from tests.support.waiting import until

DEVICES = 200
WAVES = ("1", "10%", "50%", "100%")
SETTINGS = {"SDX_ROLLOUT_TICK_MS": "50", "SDX_ROLLOUT_SOAK_S": "0", "SDX_ROLLOUT_SILENT_S": "36000"}
FAILS = frozenset({40, 120})
"""These offers, by order, are rolled back: so few that the gate lets the rollout go on."""
LONGEST_S = 0.8
"""A kill comes so long after the next results were let through, at the most."""
ALONE = 0.75
"""So often the other hub is killed only when this one is back; else nobody may be there for a moment."""


class Fates:
    """Fails some of the offers, by the order in which they are heard of."""

    def __init__(self) -> None:
        self.heard: dict[str, Fate] = {}

    def __call__(self, _device: Device, offer: Offer) -> Fate:
        fails = len(self.heard) in FAILS
        return self.heard.setdefault(offer.action, Fate("rolled_back", "health_failed") if fails else SUCCESS)


class Killing:
    """Kills one hub after the other, and starts it again.

    Attributes:
        moments: What the kills met.
    """

    def __init__(self, replicas: list[HubProcess], moments: Moments, chance: random.Random) -> None:
        self._replicas, self.moments, self._chance = replicas, moments, chance
        self._starting: dict[int, Future[float]] = {}
        self._pool = ThreadPoolExecutor(len(replicas))

    def kill(self, number: int) -> None:
        at = number % len(self._replicas)
        victim = self._replicas[at]
        if (starting := self._starting.pop(at, None)) is not None:
            starting.result()
        time.sleep(self._chance.uniform(0, LONGEST_S))
        self.moments.look(victim.pid)
        victim.kill()
        self._starting[at] = self._pool.submit(victim.start)
        if self._chance.random() < ALONE:
            self._starting[at].result()

    def wait(self) -> None:
        """Until both are back."""
        for starting in self._starting.values():
            starting.result()
        self._pool.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.full)])
def test_a_rollout_goes_on_whichever_hub_dies(tmp_path: Path, kills: int, say: Callable[[str], None]) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}, {kills} kills")
    with two_replicas(tmp_path, **SETTINGS) as (fleet, replicas, database_url):
        devices = SimulatedFleet([hub.url for hub in replicas], DEVICES, fate=Fates(), step_s=0.05, poll_s=1.0)
        devices.enrol(fleet.url, fleet.admin_token)
        fleet.publisher.publish("sim", "1.0.0", [Payload("app", b"sim 1.0.0")])
        killing = Killing(replicas, Moments(database_url), random.Random(seed))
        devices.turn.open_for = 0
        with devices.at_work(), fleet.client() as client:
            rollout = rollouts.start(client, "sim@1.0.0", waves=WAVES, gate={"base_rate": 0.1})
            for number in range(kills):
                devices.turn.open_for = DEVICES * (number + 1) // (kills + 1)
                killing.kill(number)
            assert devices.turn.passed < DEVICES, "the rollout outlasts the killing"
            devices.turn.open_for = float("inf")
            killing.wait()
            until(lambda: rollouts.show(client, rollout)["state"] not in {"preparing", "running"}, 300, 0.2)
            assert rollouts.show(client, rollout)["state"] == "finished"
        log = rollout_log.read(database_url, int(rollout.removeprefix("ro-")))
        log.check()
        everyone = {device.id for device in devices.devices}
        assert log.offers() == dict.fromkeys(everyone, 1), "each once, in the log"
        assert {device: len(actions) for device, actions in log.actions.items()} == dict.fromkeys(everyone, 1)
        assert devices.heard_of("sim@1.0.0") == log.actions, "each heard of this action and of no other"
        states = [member["state"] for member in log.members]
        assert (states.count("committed"), states.count("rolled_back")) == (DEVICES - len(FAILS), len(FAILS))
        assert not any(device.refused for device in devices.devices)
        assert fleet.doctor() == 0
    lost = sum(device.lost for device in devices.devices)
    say(
        f"rollout of {DEVICES} devices, {kills} kills: {killing.moments}; {lost} connections lost; "
        "no device offered twice, none skipped, no wave early, counters agree"
    )
    assert killing.moments.leader >= kills / 8, "the kills meet the one that decides"

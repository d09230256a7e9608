"""Hundreds of simulated devices in one thread: see `tests.support.simulated_device` for what each of them does.

with fleet.at_work(): the devices poll, update and report, whatever becomes of the hubs meanwhile.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from firmware_schemas.device_api import parse_enrol_string
from tests.support.craft import HARDWARE
from tests.support.simulated_device import SUCCESS, Device, Fate, Offer, Turn

AT_ONCE = 8
"""Devices that enrol at the same time: the hub writes one after the other anyway."""


def _always(_device: Device, _offer: Offer) -> Fate:
    return SUCCESS


class SimulatedFleet:
    """So many devices, who know all hubs and ask the next one where one does not answer.

    Args:
        hubs: Addresses.
        count: How many.
        fate: What becomes of an action on a device.
        hardware: Of each, by its index.
        step_s: The longest pause between two steps of an action.
        poll_s: Between two polls.

    Attributes:
        devices: All of them.
        turn: Holds results up.
    """

    def __init__(
        self,
        hubs: Sequence[str],
        count: int,
        *,
        fate: Callable[[Device, Offer], Fate] = _always,
        hardware: Callable[[int], str] = lambda _index: HARDWARE,
        step_s: float = 0.1,
        poll_s: float = 1.0,
        prefix: str = "sim",
    ) -> None:
        self._fate, self._step_s, self._poll_s = fate, step_s, poll_s
        self._stopping = False
        self.turn = Turn()
        self.devices = [
            Device(
                f"{prefix}-{index:04}",
                hardware(index),
                [*hubs[index % len(hubs) :], *hubs[: index % len(hubs)]],
                self._stopped,
            )
            for index in range(count)
        ]

    def enrol(self, hub: str, admin_token: str) -> None:
        """Preauthorise every key, enrol, and send a first inventory."""
        asyncio.run(self._enrol(hub, admin_token))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The devices live meanwhile.

        Raises:
            AssertionError: A device was answered what it should not be.
        """
        surprises: list[BaseException] = []

        def work() -> None:
            try:
                asyncio.run(self._live())
            except BaseException as error:
                surprises.append(error)

        self._stopping = False
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopping = True
            thread.join(60)
        assert not thread.is_alive()
        if surprises:
            raise surprises[0]

    def heard_of(self, release: str) -> dict[str, list[str]]:
        """Which actions with this release each device was offered, by device id; who heard of none is missing."""
        found = {
            device.id: [offer.action for offer in device.offers if release in offer.releases] for device in self.devices
        }
        return {device: actions for device, actions in found.items() if actions}

    def _stopped(self) -> bool:
        return self._stopping

    async def _enrol(self, hub: str, admin_token: str) -> None:
        people = {"authorization": f"Bearer {admin_token}"}
        free = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=hub, headers=people, timeout=60) as client:
            made = (await client.post("/api/v1/enrol-tokens", json={"life_s": 3600})).raise_for_status().json()
            roots = parse_enrol_string(made["enrol_string"])

            async def one(device: Device) -> None:
                async with free:
                    key: dict[str, Any] = {"device_key": device.public_key, "serial": device.serial}
                    (await client.post("/api/v1/device-keys", json=key)).raise_for_status()
                    await device.enrol(roots)
                    device.close()

            await asyncio.gather(*map(one, self.devices))

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as group:
            lives = [
                group.create_task(device.live(self._fate, self._step_s, self._poll_s, self.turn))
                for device in self.devices
            ]
            while not self._stopping and not any(
                life.done() and not device.silent for life, device in zip(lives, self.devices, strict=True)
            ):
                await asyncio.sleep(0.05)
            for life in lives:
                life.cancel()
        for device in self.devices:
            device.close()

"""One simulated device: the real protocol with a key of its own, and nothing that it would install.

It polls with its ETag, reads the director's targets when it is told of an action, reports its progress and the result,
each report signed and sent until it is acknowledged, and remembers every action that it was offered.
"""

import asyncio
import hashlib
import json
import random
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from firmware_schemas import canonical
from firmware_schemas.device_api import (
    ACTION_FIELD,
    DEVICE_TOKEN_PREFIX,
    EnrolRequest,
    EnrolString,
    InstalledComponent,
    InventoryReport,
    PollAnswer,
    ProgressReport,
    Report,
    ReportAnswer,
    ReportBody,
    ResultReport,
    envelope,
)
from firmware_schemas.release import MANIFEST_NAME
from tests.support.asking import Answer, Asker

POLL_PATH = "/device/v1/poll"
BEFORE_SWITCH = ("DOWNLOADING", "VERIFIED", "INSTALLING")


class Fate(Struct, frozen=True):
    """What becomes of an action on this device.

    Attributes:
        result: As `ResultReport.result`.
        code: Of the result.
        silent_after: The state, as the agent reports it, after which nothing is heard any more; empty for never.
    """

    result: Any = "success"
    code: str = ""
    silent_after: str = ""


SUCCESS = Fate()


class Offer(Struct, frozen=True):
    """An action as the device heard of it.

    Attributes:
        action: The director's id.
        releases: What should run, `PRODUCT@VERSION`, sorted.
        parts: The components of them that are for this device.
        floors: Release counters by product.
    """

    action: str
    releases: tuple[str, ...]
    parts: tuple[InstalledComponent, ...]
    floors: dict[str, int]

    @property
    def version(self) -> int:
        """The desired state that it belongs to."""
        return int(self.action.rpartition(".")[2])


class Device:
    """One of them.

    Args:
        serial, hardware: As it enrols.
        hubs: Addresses; see `Asker`.
        stopped: Nobody waits for it any more.

    Attributes:
        id: After `enrol`.
        offers: Every action that it heard of, in order.
        ended: Actions whose result was acknowledged, with the result.
        refused: Reports that a hub refused for good.
        silent: It does nothing any more.
    """

    def __init__(self, serial: str, hardware: str, hubs: list[str], stopped: Callable[[], bool]) -> None:
        self.serial, self.hardware = serial, hardware
        self._key = Ed25519PrivateKey.generate()
        self._token = DEVICE_TOKEN_PREFIX + secrets.token_urlsafe(32)
        self._asker = Asker(hubs, self._token, stopped)
        self._counter = 0
        self._etag = ""
        self._running: dict[str, tuple[InstalledComponent, ...]] = {}
        self.id = ""
        self.offers: list[Offer] = []
        self.ended: dict[str, str] = {}
        self.refused: list[Any] = []
        self.silent = False

    @property
    def public_key(self) -> str:
        return self._key.public_key().public_bytes_raw().hex()

    @property
    def running(self) -> tuple[str, ...]:
        """`PRODUCT@VERSION`, sorted."""
        return tuple(sorted(f"{parts[0].product}@{parts[0].version}" for parts in self._running.values() if parts))

    @property
    def lost(self) -> int:
        """How often a connection broke off under it."""
        return self._asker.lost

    def starts_with(self, *parts: InstalledComponent) -> None:
        """What it runs before it enrols."""
        self._running = {part.product: (part,) for part in parts}

    async def enrol(self, roots: EnrolString) -> None:
        """Enrol with a key that was preauthorised, and send the first inventory."""
        request = canonical.encode(
            EnrolRequest(
                self.public_key,
                self.serial,
                self.hardware,
                hashlib.sha256(self._token.encode()).hexdigest(),
                roots.image_root_sha256,
                roots.director_root_sha256,
            )
        )
        sealed = envelope(request, self._key.sign(request))
        answer = await self._asker.ask("POST", "/device/v1/enrol", msgspec.json.encode(sealed))
        self.id = str(self._expect(answer, 200, 201)["device_id"])
        await self._report(self._inventory())

    async def live(self, fate: Callable[["Device", Offer], Fate], step_s: float, poll_s: float, turn: "Turn") -> None:
        """Poll and do what is to be done, until it is cancelled or goes silent.

        Args:
            fate: What becomes of an action.
            step_s: The longest pause between two steps of an action.
            poll_s: Between two polls, on average.
            turn: Waited for before each result.
        """
        await asyncio.sleep(random.uniform(0, poll_s))
        while not self.silent:
            polled = await self._poll()
            if polled is not None and polled.inventory:
                await self._report(self._inventory())
            if polled is not None and polled.action and polled.action not in self.ended:
                offer = await self._hear(polled.action)
                if offer is not None:
                    await self._perform(offer, fate(self, offer), step_s, turn)
                    continue  # As the agent does: it looks at once whether there is more.
            await asyncio.sleep(random.uniform(0.5, 1.5) * poll_s)

    def close(self) -> None:
        """Hang up."""
        self._asker.close()

    async def _poll(self) -> PollAnswer | None:
        """None where nothing has changed."""
        known = {"if_none_match": self._etag} if self._etag else {}
        answer = await self._asker.ask("GET", POLL_PATH, **known)
        if answer.status == 304:
            return None
        self._expect(answer, 200)
        self._etag = answer.headers["etag"]
        return msgspec.json.decode(answer.body, type=PollAnswer)

    async def _hear(self, action: str) -> Offer | None:
        """Read what the director wants; None where it has another action by now."""
        base = f"/tuf/director/{self.id}/metadata"
        newest = self._expect(await self._asker.ask("GET", f"{base}/timestamp.json"), 200)
        # The director's three files have one number.
        answer = await self._asker.ask("GET", f"{base}/{newest['signed']['version']}.targets.json")
        if answer.status == 404:
            self._etag = ""
            return None
        signed = self._expect(answer, 200)["signed"]
        if signed[ACTION_FIELD] != action:
            self._etag = ""  # The poll is asked again, and not told what it knows.
            return None
        offer = _offer(action, signed["targets"])
        if action not in {each.action for each in self.offers}:
            self.offers.append(offer)
        return offer

    async def _perform(self, offer: Offer, fate: Fate, step_s: float, turn: "Turn") -> None:
        for state in BEFORE_SWITCH:
            if not await self._step(offer, state, fate, step_s):
                return
        changed = await self._poll()
        # A replica may know less than the one that told of the action.
        if changed is not None and changed.desired_version > offer.version:
            self._etag = ""
            await self._end(offer, Fate("cancelled"))
            return
        if not await self._step(offer, "TRIAL", fate, step_s):
            return
        await turn.wait()
        if fate.result == "success":
            self._running = {part.product: (part,) for part in offer.parts}
        await self._end(offer, fate)

    async def _step(self, offer: Offer, state: str, fate: Fate, step_s: float) -> bool:
        """Whether it is heard any more."""
        await self._report(ProgressReport(offer.action, state))
        self.silent = fate.silent_after == state
        await asyncio.sleep(random.uniform(0, step_s))
        return not self.silent

    async def _end(self, offer: Offer, fate: Fate) -> None:
        runs = dict(release.split("@") for release in self.running)
        detail = "as simulated" if fate.code else ""
        await self._report(ResultReport(offer.action, fate.result, runs, fate.code, detail), self._inventory(offer))
        self.ended[offer.action] = fate.result

    async def _report(self, *bodies: ReportBody) -> None:
        """Sign, and send until it is acknowledged."""
        sealed = []
        for body in bodies:
            self._counter += 1
            payload = canonical.encode(Report(self.id, self._counter, int(time.time()), body))
            sealed.append(envelope(payload, self._key.sign(payload)))
        batch = msgspec.json.encode({"envelopes": sealed})
        answer = await self._asker.ask("POST", "/device/v1/reports", batch)
        receipts = msgspec.convert(self._expect(answer, 200), ReportAnswer).receipts
        self.refused += [receipt for receipt in receipts if receipt.status == "refused"]

    def _inventory(self, offer: Offer | None = None) -> InventoryReport:
        parts = sorted((part for parts in self._running.values() for part in parts), key=lambda part: part.name)
        return InventoryReport(tuple(parts), offer.floors if offer else {}, "simulated", "simulated")

    def _expect(self, answer: Answer, *statuses: int) -> Any:
        if answer.status not in statuses:
            raise AssertionError(f"{self.serial} was answered {answer.status}: {answer.body[:500]!r}")
        return json.loads(answer.body)


class Turn:
    """Holds results up, so that something can happen in between.

    Attributes:
        open_for: So many results in total may be sent; more as time goes by. It may be set from any thread.
    """

    def __init__(self, open_for: float = float("inf")) -> None:
        self.open_for = open_for
        self.passed = 0

    async def wait(self) -> None:
        while self.passed >= self.open_for:
            await asyncio.sleep(0.02)
        self.passed += 1


def _offer(action: str, targets: dict[str, Any]) -> Offer:
    releases, parts, floors = [], [], {}
    for path, target in targets.items():
        custom = target["custom"]
        if path.endswith(f"/{MANIFEST_NAME}"):
            releases.append(f"{custom['product']}@{custom['version']}")
            floors[custom["product"]] = custom["release_counter"]
        else:
            parts.append(
                InstalledComponent(
                    custom["component"],
                    custom["type"],
                    custom["product"],
                    custom["version"],
                    custom["release_counter"],
                    target["hashes"]["sha256"],
                )
            )
    return Offer(action, tuple(sorted(releases)), tuple(parts), floors)

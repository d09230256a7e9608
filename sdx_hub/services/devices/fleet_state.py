"""What the poll needs to know of every device, in memory, compact enough for a million of them.

The database is the truth. A device's `number` is its slot: the state is arrays by slot, and one dictionary from the
token's hash to the slot. It is refreshed from `device.change_seq`: at once after a change by this process, and by a
loop for changes that other workers made. Polls write nothing; who was seen is collected and written once a second in
one statement.
"""

import asyncio
import hashlib
import json
from array import array
from collections import Counter as Tally
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import exists, select, text, update
from sqlmodel import col

from firmware_schemas.device_api import DEVICE_TOKEN_PREFIX, PollAnswer
from firmware_schemas.ids import DeviceId
from sdx_hub.adapters.clock import Clock
from sdx_hub.domain.errors import NotAllowed, NotAuthenticated
from sdx_hub.loops import Loops
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.tables.devices import Device, DeviceInventory
from sdx_hub.persistence.unit_of_work import DEVICE_CHANGE_COUNTER

KEY_BYTES: Final = 15
"""Of the token's SHA-256: 120 bits cannot be found by trying, and a 15-byte string takes 48 bytes of memory, not 64."""

NO_DEVICE: Final = -3
REVOKED: Final = -2
PENDING: Final = -1
"""Stand in for the desired version of a slot; real ones are not negative."""

_STAND_IN = {"pending": PENDING, "revoked": REVOKED}
_ID_BYTES = 10
_ASSIGNED, _WANTS_INVENTORY, _WANTS_TOKEN = 1, 2, 4
_LOOK_AGAIN_S = 0.05
_LOAD_ROWS = 10_000


class PollSettings(Struct, frozen=True):
    interval_s: int = 60
    jitter_s: int = 15
    refresh_s: float = 0.4
    flush_s: float = 1.0


class FleetState:
    """The poll's memory.

    Attributes:
        slots: Token key to slot; the key is the first `KEY_BYTES` of the SHA-256 of the token's text.
        versions: By slot: the desired version, or `PENDING`, `REVOKED`, `NO_DEVICE`.
        seen: Slots that polled since the last flush; the poll adds to it.
    """

    def __init__(self, database: Database, clock: Clock, settings: PollSettings) -> None:
        self._database = database
        self._clock = clock
        self.settings = settings
        self.slots: dict[bytes, int] = {}
        self.versions = array("q")
        self.seen: set[int] = set()
        self._next_keys: dict[bytes, int] = {}
        self._next_of: dict[int, bytes] = {}
        self._rotated: dict[int, str] = {}
        self._keys = bytearray()
        self._ids = bytearray()
        self._flags = bytearray()
        self._last_seq = 0
        self._looked_at = float("-inf")
        self._refreshing = asyncio.Lock()
        self._looking_again = asyncio.Lock()
        self._loops = Loops()

    async def load(self) -> None:
        """Read every device; the poll answers after that."""
        await self.catch_up()

    def start(self) -> None:
        """Start the loops of refreshing and flushing."""
        self._loops.every(self.settings.refresh_s, self.catch_up, "fleet-refresh")
        self._loops.every(self.settings.flush_s, self.flush, "fleet-flush")

    async def stop(self) -> None:
        """Stop the loops and write what they still hold."""
        await self._loops.stop()
        await self.flush()

    async def catch_up(self) -> None:
        """Apply every change that was committed since the last look."""
        async with self._refreshing:
            began, newest = asyncio.get_running_loop().time(), self._last_seq
            query = (
                select(
                    col(Device.number),
                    col(Device.id),
                    col(Device.state),
                    col(Device.token_sha256),
                    col(Device.next_token_sha256),
                    col(Device.desired_version),
                    col(Device.has_assignment),
                    col(Device.rotation_wanted),
                    col(Device.change_seq),
                    exists().where(col(DeviceInventory.device_id) == col(Device.id)).label("inventory"),
                )
                .where(col(Device.change_seq) > self._last_seq)
                .order_by(col(Device.change_seq))
            )
            async with self._database.reading() as session:
                rows = await session.stream(query.execution_options(yield_per=_LOAD_ROWS))
                async for part in rows.partitions():
                    for number, identity, state, token, following, version, assigned, rotate, seq, inventory in part:
                        self._make_room(number)
                        self._ids[number * _ID_BYTES : (number + 1) * _ID_BYTES] = bytes.fromhex(identity[2:])
                        self._flags[number] = (_ASSIGNED if assigned else 0) | (0 if inventory else _WANTS_INVENTORY)
                        if rotate and number not in self._rotated:
                            self._flags[number] |= _WANTS_TOKEN
                        self.versions[number] = version if state == "accepted" else _STAND_IN[state]
                        self._apply_tokens(number, token, following)
                        newest = max(newest, seq)
            # Only now: a reading that broke off half-way is done again, and devices may share a number.
            self._last_seq, self._looked_at = newest, began

    async def find(self, token: bytes) -> int | None:
        """The slot of a token, the slow way: it may be a new one, or one that another worker has just accepted."""
        digest = hashlib.sha256(token).digest()
        slot = self._slot_of(digest)
        if slot is None:
            await self._look_again()
            slot = self._slot_of(digest)
        return slot

    async def authenticate(self, token: str) -> DeviceId:
        """Return the accepted device whose poll token this is.

        Raises:
            NotAuthenticated: Nobody's (code `token_unknown`).
            NotAllowed: The device is pending or revoked.
        """
        raw = token.encode("utf-8", "replace")
        slot = self.slots.get(token_key(raw)) if token.startswith(DEVICE_TOKEN_PREFIX) else None
        if slot is None and token.startswith(DEVICE_TOKEN_PREFIX):
            slot = await self.find(raw)
        if slot is None:
            raise NotAuthenticated("This device token is not known here. Enrol the device again.", "token_unknown")
        self.refuse_unless_accepted(slot)
        return self.device_id(slot)

    def refuse_unless_accepted(self, slot: int) -> None:
        """Return if the device may talk to the hub.

        Raises:
            NotAllowed: It is pending (`device_pending`) or revoked (`device_revoked`).
        """
        version = self.versions[slot]
        if version == PENDING:
            raise NotAllowed("This device waits until an operator accepts it: sdx device accept D.", "device_pending")
        if version < 0:
            raise NotAllowed("This device was revoked. It cannot come back with this key.", "device_revoked")

    def device_id(self, slot: int) -> DeviceId:
        return DeviceId("d-" + self._ids[slot * _ID_BYTES : (slot + 1) * _ID_BYTES].hex())

    def asks(self, slot: int) -> bool:
        """Whether the hub wants something of the device; until it has it, no poll is answered by 304."""
        return bool(self._flags[slot] & (_WANTS_INVENTORY | _WANTS_TOKEN))

    def answer(self, slot: int) -> bytes:
        """The body of a 200 to a poll."""
        version, flags = self.versions[slot], self._flags[slot]
        return msgspec.json.encode(
            PollAnswer(
                desired_version=version,
                action=f"{self.device_id(slot)}.{version}" if flags & _ASSIGNED else "",
                interval_s=self.settings.interval_s,
                jitter_s=self.settings.jitter_s,
                rotate_token=bool(flags & _WANTS_TOKEN),
                inventory=bool(flags & _WANTS_INVENTORY),
            )
        )

    def count(self) -> dict[str, int]:
        """Devices by state."""
        names = {PENDING: "pending", REVOKED: "revoked"}
        tally = Tally(names.get(version, "accepted") for version in self.versions if version != NO_DEVICE)
        return {state: tally[state] for state in ("pending", "accepted", "revoked")}

    async def flush(self) -> None:
        """Write who was seen and which tokens were rotated, in one transaction."""
        if not self.seen and not self._rotated:
            return
        seen, self.seen = self.seen, set()
        rotated, self._rotated = self._rotated, {}
        try:
            async with self._database.unit_of_work() as uow:
                if seen:
                    numbers = json.dumps(sorted(seen), separators=(",", ":"))
                    now_s = int(self._clock.now().timestamp())
                    await uow.session.execute(_SEEN[self._database.backend], {"numbers": numbers, "now": now_s})
                for slot, token_sha256 in rotated.items():
                    await uow.session.execute(
                        update(Device)
                        .where(col(Device.number) == slot, col(Device.next_token_sha256) == token_sha256)
                        .values(
                            token_sha256=token_sha256,
                            next_token_sha256=None,
                            rotated_at=self._clock.now(),
                            rotation_wanted=False,
                            change_seq=await uow.next_number(DEVICE_CHANGE_COUNTER),
                        )
                    )
                await uow.commit()
        except BaseException:
            self.seen |= seen
            self._rotated = rotated | self._rotated
            raise

    async def _look_again(self) -> None:
        """Know what was committed before this call; bounded: guessing tokens causes twenty small queries a second."""
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        async with self._looking_again:
            if self._looked_at > arrived:
                return  # Somebody else looked in the meantime.
            await asyncio.sleep(max(0.0, self._looked_at + _LOOK_AGAIN_S - loop.time()))
            await self.catch_up()

    def _slot_of(self, digest: bytes) -> int | None:
        key = digest[:KEY_BYTES]
        slot = self.slots.get(key)
        if slot is None and (slot := self._next_keys.get(key)) is not None:
            # The first use of the announced token: from now on the old one is worth nothing.
            self._rotated[slot] = digest.hex()
            self._set_key(slot, key)
            self._set_next(slot, None)
            self._flags[slot] &= ~_WANTS_TOKEN
        return slot

    def _make_room(self, slot: int) -> None:
        missing = slot + 1 - len(self.versions)
        if missing > 0:
            missing = max(missing, len(self.versions) // 8)  # Room ahead, so that enrolments do not copy it all.
            self.versions.extend(array("q", [NO_DEVICE]) * missing)
            self._flags.extend(bytes(missing))
            self._ids.extend(bytes(missing * _ID_BYTES))
            self._keys.extend(bytes(missing * KEY_BYTES))

    def _apply_tokens(self, slot: int, token: str, following: str | None) -> None:
        if slot in self._rotated and self._rotated[slot] == following:
            return  # The device uses the new token already; the database learns of it at the next flush.
        self._set_key(slot, bytes.fromhex(token)[:KEY_BYTES])
        self._set_next(slot, bytes.fromhex(following)[:KEY_BYTES] if following else None)

    def _set_key(self, slot: int, key: bytes) -> None:
        place = slice(slot * KEY_BYTES, (slot + 1) * KEY_BYTES)
        old = bytes(self._keys[place])
        if old != key and self.slots.get(old) == slot:
            del self.slots[old]
        self._keys[place] = key
        self.slots.setdefault(key, slot)  # A token that is somebody's stays theirs.

    def _set_next(self, slot: int, key: bytes | None) -> None:
        old = self._next_of.pop(slot, None)
        if old is not None and self._next_keys.get(old) == slot:
            del self._next_keys[old]
        if key is not None:
            self._next_of[slot] = key
            self._next_keys.setdefault(key, slot)


def token_key(token: bytes) -> bytes:
    """The key of `FleetState.slots`."""
    return hashlib.sha256(token).digest()[:KEY_BYTES]


_SEEN = {
    "sqlite": text(
        "INSERT INTO device_seen (number, last_seen_s) SELECT value, :now FROM json_each(:numbers) WHERE true "
        "ON CONFLICT (number) DO UPDATE SET last_seen_s = excluded.last_seen_s"
    ),
    "postgresql": text(
        "INSERT INTO device_seen (number, last_seen_s) "
        "SELECT CAST(value AS bigint), :now FROM json_array_elements_text(CAST(:numbers AS json)) "
        "ON CONFLICT (number) DO UPDATE SET last_seen_s = excluded.last_seen_s"
    ),
}

"""What the poll needs to know of every device, compact enough for a million of them: arrays by slot.

A device's `number` is its slot. A million devices take 43 MB: 10 bytes of id, 15 of the token's hash, 8 of the version,
one of flags, and 8 of the table that finds a slot by its token's hash. Tokens that were announced and not used yet are
few, and lie in dictionaries.
"""

import hashlib
from array import array
from collections.abc import Iterable
from typing import Final

import msgspec

from firmware_schemas.device_api import PollAnswer
from firmware_schemas.ids import DeviceId
from sdx_hub.domain.errors import NotAllowed
from sdx_hub.persistence.device_feed import ASSIGNED, PENDING, REVOKED, WANTS_INVENTORY, WANTS_TOKEN, DeviceRow
from sdx_hub.services.devices.token_table import KEY_BYTES, NO_KEY, TokenTable

NO_DEVICE: Final = -3
"""Stands in for the version of a slot that has no device."""

_ID_BYTES: Final = 10


class FleetMemory:
    """Devices by slot, and slots by token.

    Args:
        interval_s, jitter_s: What devices are told.

    Attributes:
        tokens: Of the tokens that count.
        versions: By slot: the desired version, or `PENDING`, `REVOKED`, `NO_DEVICE`.
        rotated: By slot: SHA-256 of a token whose first use was here, until the database knows of it.
    """

    def __init__(self, interval_s: int, jitter_s: int) -> None:
        self.tokens = TokenTable()
        self.versions = array("q")
        self.rotated: dict[int, bytes] = {}
        # By the version of those that are not accepted, which counts from the end; the accepted ones are at 0.
        self._tally = [0] * (1 - NO_DEVICE)
        self._interval_s = interval_s
        self._jitter_s = jitter_s
        self._ids = bytearray()
        self._flags = bytearray()
        self._next_slots: dict[bytes, int] = {}
        self._next_keys: dict[int, bytes] = {}

    def reserve(self, number: int) -> None:
        """Make room for devices up to this number, and then some, so that enrolments do not copy it all each time."""
        missing = number + 1 - len(self.versions)
        if missing > 0:
            missing = max(missing, len(self.versions) // 8)
            self.versions.extend(array("q", [NO_DEVICE]) * missing)
            self._flags.extend(bytes(missing))
            self._ids.extend(bytes(missing * _ID_BYTES))
            self.tokens.reserve(len(self.versions))

    def apply(self, rows: Iterable[DeviceRow]) -> None:
        """Take over what the database says of these devices; saying it twice changes nothing."""
        versions, flags, ids, tally = self.versions, self._flags, self._ids, self._tally
        put, rotated, next_keys = self.tokens.put, self.rotated, self._next_keys
        new: list[tuple[int, bytes]] = []
        for slot, identity, key, following, version, flag in rows:
            if slot >= len(versions):
                self.reserve(slot)
            if (old := versions[slot]) == NO_DEVICE and following == NO_KEY:
                tally[version if version < 0 else 0] += 1
                versions[slot], flags[slot] = version, flag
                ids[slot * _ID_BYTES : (slot + 1) * _ID_BYTES] = identity
                new.append((slot, key))
                continue
            if old != version:
                tally[old if old < 0 else 0] -= 1
                tally[version if version < 0 else 0] += 1
                versions[slot] = version
            ids[slot * _ID_BYTES : (slot + 1) * _ID_BYTES] = identity
            flags[slot] = flag & ~WANTS_TOKEN if slot in rotated else flag
            if slot in rotated and rotated[slot].startswith(following):
                continue  # The device uses the new token already; the database learns of it at the next flush.
            put(slot, key)
            if following != NO_KEY or slot in next_keys:
                self._set_next(slot, following)
        self.tokens.fill(new)

    def counts(self) -> dict[str, int]:
        """Devices by state."""
        return {"pending": self._tally[PENDING], "accepted": self._tally[0], "revoked": self._tally[REVOKED]}

    def slot_of(self, token: bytes) -> int | None:
        """The slot of a token, which may be one that was announced: its first use ends the one before."""
        digest = hashlib.sha256(token).digest()
        key = digest[:KEY_BYTES]
        slot = self.tokens.find(key)
        if slot is None and (slot := self._next_slots.get(key)) is not None:
            self.rotated[slot] = digest
            self.tokens.put(slot, key)
            self._set_next(slot, NO_KEY)
            self._flags[slot] &= ~WANTS_TOKEN
        return slot

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
        return bool(self._flags[slot] & (WANTS_INVENTORY | WANTS_TOKEN))

    def answer(self, slot: int) -> bytes:
        """The body of a 200 to a poll."""
        version, flags = self.versions[slot], self._flags[slot]
        return msgspec.json.encode(
            PollAnswer(
                desired_version=version,
                action=f"{self.device_id(slot)}.{version}" if flags & ASSIGNED else "",
                interval_s=self._interval_s,
                jitter_s=self._jitter_s,
                rotate_token=bool(flags & WANTS_TOKEN),
                inventory=bool(flags & WANTS_INVENTORY),
            )
        )

    def _set_next(self, slot: int, key: bytes) -> None:
        old = self._next_keys.pop(slot, None)
        if old is not None and self._next_slots.get(old) == slot:
            del self._next_slots[old]
        if key != NO_KEY:
            self._next_keys[slot] = key
            self._next_slots.setdefault(key, slot)


def token_key(token: bytes) -> bytes:
    """What a token is found by."""
    return hashlib.sha256(token).digest()[:KEY_BYTES]

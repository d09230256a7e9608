"""Whose poll token is it: a million keys in arrays, where a dictionary would take 130 MB.

An open-addressing hash table with linear probing (D. Knuth, The Art of Computer Programming, volume 3, section 6.4,
algorithm L): the keys lie packed by slot, the table holds slot numbers only. Deletion moves what follows back to where
a search would look for it (algorithm R), so that there are no tombstones and searches stay short for ever.

**What a lookup tells an attacker who measures it: nothing of a token.** A key is the start of the SHA-256 of a token,
so that changing a token changes all of its key: a wrong one cannot be brought closer to a right one step by step. Where
the search begins is decided by Python's own hash of the key (SipHash with a secret of this process), so how many
places it looks at depends on nothing that a client can steer, and nobody can enrol devices that all fall on one place.
The keys that it meets are compared in constant time.
"""

from array import array
from collections.abc import Sequence
from hmac import compare_digest
from typing import Final

KEY_BYTES: Final = 15
"""Of the token's SHA-256: 120 bits cannot be found by trying."""

NO_KEY: Final = bytes(KEY_BYTES)
"""A slot without a token. No token hashes to it, as far as anybody will ever find out."""

_EMPTY: Final = 0
"""Slots begin at 1."""
_FEWEST_PLACES: Final = 64


class TokenTable:
    """Keys to slots, one key for each slot.

    A find costs less than a microsecond with a million keys. Growing looks at every key once: a third of a second with
    a million of them, so say early how many there will be (`reserve`); after that it happens when the fleet doubles.
    """

    __slots__ = ("_count", "_keys", "_mask", "_most", "_places")

    def __init__(self) -> None:
        self._keys = bytearray()
        self._places = array("I", bytes(4 * _FEWEST_PLACES))
        self._mask = _FEWEST_PLACES - 1
        self._most = _FEWEST_PLACES * 2 // 3
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def reserve(self, slots: int) -> None:
        """Make room for slots below this number, and for as many keys."""
        missing = slots * KEY_BYTES - len(self._keys)
        if missing > 0:
            self._keys.extend(bytes(missing))
        self._grow(slots)

    def find(self, key: bytes) -> int | None:
        """The slot of a key."""
        places, mask, keys = self._places, self._mask, self._keys
        place = hash(key) & mask
        while slot := places[place]:
            start = slot * KEY_BYTES
            if compare_digest(keys[start : start + KEY_BYTES], key):
                return slot
            place = (place + 1) & mask
        return None

    def key_of(self, slot: int) -> bytes:
        """The key of a slot, or `NO_KEY`."""
        return bytes(self._keys[slot * KEY_BYTES : (slot + 1) * KEY_BYTES])

    def put(self, slot: int, key: bytes) -> None:
        """Replace the key of a slot for which there is room; `NO_KEY` takes it away.

        A key that is another slot's already stays the other's: this slot is not found then.
        """
        keys, start = self._keys, slot * KEY_BYTES
        end = start + KEY_BYTES
        old = keys[start:end]
        if old == key:
            return
        if old != NO_KEY:
            self._remove(slot, bytes(old))
        keys[start:end] = key
        if key == NO_KEY:
            return
        if self._count == self._most:
            self._grow(self._count + 1)
        places, mask = self._places, self._mask
        place = hash(key) & mask
        while other := places[place]:
            if self.key_of(other) == key:
                return
            place = (place + 1) & mask
        places[place] = slot
        self._count += 1

    def fill(self, new: Sequence[tuple[int, bytes]]) -> None:
        """`put` for slots that hold nothing yet: half the time for each, which decides how soon a hub is ready."""
        self._grow(self._count + len(new))
        places, mask, keys = self._places, self._mask, self._keys
        for slot, key in new:
            keys[slot * KEY_BYTES : (slot + 1) * KEY_BYTES] = key
            place = hash(key) & mask
            while other := places[place]:
                if keys[other * KEY_BYTES : (other + 1) * KEY_BYTES] == key:
                    break
                place = (place + 1) & mask
            else:
                places[place] = slot
                self._count += 1

    def _remove(self, slot: int, key: bytes) -> None:
        places, mask = self._places, self._mask
        hole = hash(key) & mask
        while (found := places[hole]) != slot:
            if found == _EMPTY:
                return  # The key was another slot's.
            hole = (hole + 1) & mask
        self._count -= 1
        place = hole
        while other := places[place := (place + 1) & mask]:
            home = hash(self.key_of(other)) & mask
            # It may move back to the hole unless its search begins behind it: cyclically, hole < home <= place.
            if (place - home) & mask >= (place - hole) & mask:
                places[hole] = other
                hole = place
        places[hole] = _EMPTY

    def _grow(self, keys: int) -> None:
        """Have room for so many keys with at most two thirds of the places taken."""
        wanted = max(_FEWEST_PLACES, 1 << (keys * 3 // 2).bit_length())
        if wanted <= len(self._places):
            return
        before = self._places
        self._places, self._mask, self._most = array("I", bytes(4 * wanted)), wanted - 1, wanted * 2 // 3
        places, mask, all_keys = self._places, self._mask, self._keys
        for slot in before:
            if slot:
                start = slot * KEY_BYTES
                place = hash(bytes(all_keys[start : start + KEY_BYTES])) & mask
                while places[place]:
                    place = (place + 1) & mask
                places[place] = slot

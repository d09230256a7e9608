"""What the poll's memory makes of rows, and how much room it takes for it."""

import hashlib
import random
import sys

from sdx_hub.persistence.device_feed import PENDING, REVOKED, WANTS_TOKEN, DeviceRow
from sdx_hub.services.devices.fleet_memory import FleetMemory, token_key
from sdx_hub.services.devices.token_table import NO_KEY

LONGEST_BYTES = 48
"""Of a device, in a fleet of many: 34 of its own, and at most 12 of the table of tokens."""


def row(number: int, version: int = 0, *, token: str = "", following: str = "", flags: int = 0) -> DeviceRow:
    key = token_key((token or f"sdxd_{number}").encode())
    return (
        number,
        number.to_bytes(10, "big"),
        key,
        token_key(following.encode()) if following else NO_KEY,
        version,
        flags,
    )


def size(memory: FleetMemory) -> int:
    arrays = (memory.versions, memory._ids, memory._flags, memory.tokens._keys, memory.tokens._places)
    return sum(sys.getsizeof(each) for each in arrays)


def test_a_device_takes_few_bytes() -> None:
    memory = FleetMemory(60, 15)
    count = 100_000
    memory.reserve(count)
    memory.apply(row(number) for number in range(1, count + 1))
    assert memory.counts()["accepted"] == count
    assert size(memory) <= count * LONGEST_BYTES
    assert not memory._next_keys
    assert not memory._next_slots


def test_a_memory_that_was_not_told_how_many_there_are_grows() -> None:
    memory = FleetMemory(60, 15)
    numbers = list(range(1, 3001))
    random.Random(1).shuffle(numbers)
    for number in numbers:
        memory.apply([row(number, number)])
    for number in numbers:
        slot = memory.slot_of(f"sdxd_{number}".encode())
        assert slot == number
        assert memory.versions[slot] == number
        assert memory.device_id(slot) == f"d-{number:020x}"


def test_devices_are_counted_by_their_last_state() -> None:
    memory = FleetMemory(60, 15)
    assert memory.counts() == {"pending": 0, "accepted": 0, "revoked": 0}
    steps = [(1, PENDING), (2, PENDING), (3, 4), (1, 0), (1, 1), (2, REVOKED), (2, REVOKED), (3, REVOKED), (900, 1)]
    for number, version in steps:
        memory.apply([row(number, version)])
    assert memory.counts() == {"pending": 0, "accepted": 2, "revoked": 2}


def test_rows_that_come_twice_change_nothing() -> None:
    memory = FleetMemory(60, 15)
    rows = [row(1, 1, following="sdxd_new"), row(2, PENDING)]
    memory.apply(rows)
    before = size(memory), memory.counts(), bytes(memory.tokens._keys), memory.tokens._places.tobytes()
    memory.apply(rows)
    assert (size(memory), memory.counts(), bytes(memory.tokens._keys), memory.tokens._places.tobytes()) == before


def test_the_first_use_of_an_announced_token_ends_the_one_before_and_the_wish() -> None:
    memory = FleetMemory(60, 15)
    memory.apply([row(1, token="sdxd_old", following="sdxd_new", flags=WANTS_TOKEN)])
    assert memory.slot_of(b"sdxd_old") == 1
    assert memory.asks(1)
    assert memory.slot_of(b"sdxd_new") == 1
    assert memory.slot_of(b"sdxd_old") is None
    assert not memory.asks(1)
    assert memory.rotated == {1: hashlib.sha256(b"sdxd_new").digest()}


def test_an_announcement_that_is_taken_back_or_replaced_is_nobodys() -> None:
    memory = FleetMemory(60, 15)
    memory.apply([row(1, following="sdxd_a"), row(2, following="sdxd_b")])
    memory.apply([row(1, following="sdxd_c"), row(2)])
    assert memory.slot_of(b"sdxd_a") is None
    assert memory.slot_of(b"sdxd_b") is None
    assert memory.slot_of(b"sdxd_c") == 1

"""The table behaves as a dictionary would, whatever is put in, replaced and taken away."""

import hashlib

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sdx_hub.services.devices import token_table
from sdx_hub.services.devices.token_table import KEY_BYTES, NO_KEY, TokenTable

SLOTS = 200
KEYS = [hashlib.sha256(bytes([number])).digest()[:KEY_BYTES] for number in range(250)]


class Crowded(bytes):
    """A key that begins its search at one of four places: whole runs of neighbours form, and wrap around the end."""

    def __hash__(self) -> int:
        return (62, 63, 0, 1)[self[0] % 4]


class AgainstADictionary(RuleBasedStateMachine):
    """Random keys with few places; a key is one slot's at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.table = TokenTable()
        self.table.reserve(SLOTS)
        self.keys: dict[int, bytes] = {}

    @rule(slot=st.integers(1, SLOTS - 1), key=st.sampled_from(KEYS))
    def put(self, slot: int, key: bytes) -> None:
        if self.keys.get(slot) == key or key not in self.keys.values():
            self.table.put(slot, key)
            self.keys[slot] = key

    @rule(slot=st.integers(1, SLOTS - 1))
    def take_away(self, slot: int) -> None:
        self.table.put(slot, NO_KEY)
        self.keys.pop(slot, None)

    @rule(start=st.integers(1, SLOTS - 1), keys=st.lists(st.sampled_from(KEYS), unique=True, max_size=40))
    def fill(self, start: int, keys: list[bytes]) -> None:
        free = [slot for slot in range(start, SLOTS) if slot not in self.keys]
        new = list(zip(free, (key for key in keys if key not in self.keys.values()), strict=False))
        self.table.fill(new)
        self.keys |= dict(new)

    @rule(slots=st.integers(SLOTS, 4 * SLOTS))
    def grow(self, slots: int) -> None:
        self.table.reserve(slots)

    @invariant()
    def finds_the_same(self) -> None:
        slots = {key: slot for slot, key in self.keys.items()}
        assert {key: self.table.find(key) for key in KEYS} == {key: slots.get(key) for key in KEYS}
        assert len(self.table) == len(self.keys)


AgainstADictionary.TestCase.settings = settings(max_examples=30, stateful_step_count=60, deadline=None)
TestAgainstADictionary = AgainstADictionary.TestCase


class TestCrowded(AgainstADictionary.TestCase):  # type: ignore[valid-type, misc]
    """The same, where every key begins at one of four places."""

    @pytest.fixture(autouse=True)
    def crowd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(token_table, "hash", lambda key: hash(Crowded(key)), raising=False)


def test_a_table_grows_with_its_keys() -> None:
    table = TokenTable()
    keys = [hashlib.sha256(b"%d" % number).digest()[:KEY_BYTES] for number in range(1, 5001)]
    for slot, key in enumerate(keys, 1):
        table._keys.extend(bytes(max(0, (slot + 1) * KEY_BYTES - len(table._keys))))
        table.put(slot, key)
    assert [table.find(key) for key in keys] == list(range(1, 5001))
    assert len(table._places) * 2 >= len(table) * 3, "searches end, and soon"


def test_filling_leaves_a_key_that_is_somebodys_to_them() -> None:
    table = TokenTable()
    table.reserve(4)
    table.put(1, KEYS[0])
    table.fill([(2, KEYS[0]), (3, KEYS[1])])
    assert (table.find(KEYS[0]), table.find(KEYS[1]), len(table)) == (1, 3, 2)


def test_a_key_that_is_somebodys_stays_theirs() -> None:
    table = TokenTable()
    table.reserve(3)
    mine, yours = KEYS[:2]
    table.put(1, mine)
    table.put(2, mine)
    assert (table.find(mine), len(table)) == (1, 1)
    table.put(2, yours)
    assert (table.find(mine), table.find(yours)) == (1, 2)


def test_no_key_is_nobodys() -> None:
    table = TokenTable()
    table.reserve(10)
    assert table.find(NO_KEY) is None
    table.put(1, KEYS[0])
    table.put(1, NO_KEY)
    assert table.find(KEYS[0]) is None
    assert table.find(NO_KEY) is None

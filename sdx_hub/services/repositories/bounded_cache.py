"""A cache of bytes that forgets what was not asked for longest."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedCache(Generic[K, V]):
    """Keeps values up to a total weight.

    Args:
        max_bytes: Of all values together; a value that is larger alone is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._used = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, weight_bytes: int) -> None:
        _, was = self._kept.pop(key, (None, 0))
        self._used -= was
        if weight_bytes > self._max:
            return
        self._kept[key] = (value, weight_bytes)
        self._used += weight_bytes
        while self._used > self._max:
            _, (_, freed) = self._kept.popitem(last=False)
            self._used -= freed

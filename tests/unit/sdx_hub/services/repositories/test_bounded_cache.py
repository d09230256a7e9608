"""A cache that stays within its bytes, and forgets what was not asked for longest."""

from sdx_hub.services.repositories.bounded_cache import BoundedCache


def test_the_one_not_asked_for_longest_goes_first() -> None:
    cache: BoundedCache[str, str] = BoundedCache(10)
    for key in "abc":
        cache.put(key, key.upper(), 3)
    assert cache.get("a") == "A"
    cache.put("d", "D", 3)
    assert [cache.get(key) for key in "abcd"] == ["A", None, "C", "D"]


def test_a_value_that_is_replaced_is_weighed_once() -> None:
    cache: BoundedCache[str, str] = BoundedCache(10)
    for _ in range(5):
        cache.put("a", "A", 4)
    cache.put("b", "B", 6)
    assert (cache.get("a"), cache.get("b")) == ("A", "B")


def test_a_value_larger_than_all_is_not_kept_and_drives_nobody_out() -> None:
    cache: BoundedCache[str, str] = BoundedCache(10)
    cache.put("a", "A", 4)
    cache.put("b", "B", 11)
    assert (cache.get("a"), cache.get("b")) == ("A", None)
    cache.put("a", "AA", 11)
    assert cache.get("a") is None

"""Waves: every device in exactly one, sizes as ordered, each beginning balanced, and the same for the same seed."""

from array import array
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, MetaData, Table, select

from sdx_hub.domain.errors import BadInput
from sdx_hub.domain.rollout.kinds import MAX_STRATA, OTHERS, check_stratify, name_of, strata_of
from sdx_hub.domain.rollout.ordering import PRIME, interleave, place, seed_of
from sdx_hub.domain.rollout.policy import DEFAULT_WAVES, MAX_WAVES, Order
from sdx_hub.domain.rollout.waves import Count, Group, Percent, parse_waves, sizes, split_waves
from sdx_hub.persistence.database import Database
from sdx_hub.persistence.types import BigInt

STRATA = st.lists(st.integers(0, 40), min_size=1, max_size=12)
SEEDS = st.integers(0, 2**48 - 1)


def of_sizes(counts: list[int]) -> "list[array[int]]":
    """Strata whose devices are `1000 * stratum + place`."""
    return [array("q", (1_000 * stratum + each for each in range(count))) for stratum, count in enumerate(counts)]


@pytest.mark.parametrize(
    ("text", "waves"),
    [
        ("1", ("1",)),
        ("1,10%, 50% ,100%", ("1", "10%", "50%", "100%")),
        ('tag in (a, b), serial = "x,\\"(,", 100%', ("tag in (a, b)", 'serial = "x,\\"(,"', "100%")),
        ('"unclosed, 1', ('"unclosed, 1',)),
        ("(a, (b, c)), d", ("(a, (b, c))", "d")),
    ],
)
def test_a_text_is_split_outside_of_quotes_and_brackets(text: str, waves: tuple[str, ...]) -> None:
    assert split_waves(text) == waves


@pytest.mark.parametrize("text", ["", " ", "1,,2", "1,", ",1"])
def test_an_empty_wave_is_refused(text: str) -> None:
    with pytest.raises(BadInput) as refused:
        split_waves(text)
    assert refused.value.code == "waves_invalid"


def test_waves_are_counts_percentages_and_queries() -> None:
    count, percent, group, whole = parse_waves(["5", "12.5%", "tag = canary", "100 %"])
    assert count == Count("5", 5)
    assert percent == Percent("12.5%", Fraction("12.5"))
    assert isinstance(group, Group)
    assert group.label == "tag = canary"
    assert isinstance(whole, Percent)
    assert parse_waves(DEFAULT_WAVES)


@pytest.mark.parametrize(
    ("waves", "said"),
    [
        ([], "1 to 32 waves"),
        (["1"] * (MAX_WAVES + 1), "1 to 32 waves"),
        (["0"], "a count is from 1"),
        (["-1"], "a count is from 1"),
        (["1.5"], "a count is from 1"),
        (["1e3"], "a count is from 1"),
        (["9999999999"], "a count is from 1"),
        (["0%"], "above 0%"),
        (["101%"], "above 0%"),
        (["ten%"], "above 0%"),
        (["%"], "above 0%"),
        (["all"], "a query for a group"),
        (["tag ="], "As a query"),
        (["5", "5"], "is not larger"),
        (["5", "tag = a", "4"], "is not larger"),
        (["50%", "10%"], "is not larger"),
        (["10%", "10.0%"], "is not larger"),
    ],
)
def test_nonsense_is_refused_with_what_to_write(waves: list[str], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_waves(waves)
    assert refused.value.code == "waves_invalid"
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("waves", "pool", "groups", "expected"),
    [
        (DEFAULT_WAVES, 24, [], (1, 2, 9, 12)),
        (DEFAULT_WAVES, 3, [], (1, 1, 1, 0)),
        (DEFAULT_WAVES, 0, [], (0, 0, 0, 0)),
        (["1", "tag = a", "50%", "100%"], 15, [5], (1, 5, 4, 10)),
        (["tag = a", "1", "100%"], 15, [5], (5, 1, 14)),
        (["tag = a", "tag = b"], 10, [2, 0], (2, 0)),
        (["12.5%"], 9, [], (2,)),
        (["50%", "2"], 10, [], (5, 1)),
    ],
)
def test_sizes(waves: list[str], pool: int, groups: list[int], expected: tuple[int, ...]) -> None:
    assert sizes(parse_waves(waves), pool, groups) == expected


@settings(deadline=None)
@given(st.lists(st.integers(1, 2_000), min_size=1, max_size=8, unique=True), st.integers(0, 3_000))
def test_counts_are_what_has_been_offered_in_total(counts: list[int], pool: int) -> None:
    found = sizes(parse_waves([str(count) for count in sorted(counts)]), pool, [])
    for count, total in zip(sorted(counts), _totals(found), strict=True):
        assert total == min(count, pool)


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 1_000), min_size=1, max_size=8, unique=True),
    st.integers(0, 3_000),
    st.lists(st.integers(0, 100), max_size=3),
)
def test_percentages_round_up_and_nobody_is_in_two_waves(per_mille: list[int], pool: int, groups: list[int]) -> None:
    texts = [f"{each / 10}%" for each in sorted(per_mille)] + [f"tag = t{number}" for number in range(len(groups))]
    found = sizes(parse_waves(texts), pool, groups)
    numbers, of_groups = found[: len(per_mille)], found[len(per_mille) :]
    assert list(of_groups) == groups
    assert sum(numbers) <= pool
    members, left = pool + sum(groups), pool
    for each, total, size in zip(sorted(per_mille), _totals(numbers), numbers, strict=True):
        assert size >= 1 or not left
        left -= size
        assert total >= min(pool, -(-members * each // 1_000))
    if per_mille and max(per_mille) == 1_000:
        assert sum(numbers) == pool


@settings(deadline=None)
@given(STRATA)
def test_each_beginning_holds_each_kind_in_its_share(counts: list[int]) -> None:
    merged, taken, total = interleave(of_sizes(counts)), Counter[int](), sum(counts)
    assert sorted(merged) == sorted(device for stratum in of_sizes(counts) for device in stratum)
    for length, device in enumerate(merged, 1):
        taken[device // 1_000] += 1
        for stratum, count in enumerate(counts):
            assert abs(taken[stratum] * total - count * length) < total


@settings(deadline=None)
@given(STRATA)
def test_a_kind_keeps_its_own_order(counts: list[int]) -> None:
    for stratum, devices in enumerate(of_sizes(counts)):
        assert [each for each in interleave(of_sizes(counts)) if each // 1_000 == stratum] == list(devices)


def test_the_first_three_of_17_and_7_hold_both() -> None:
    assert {device // 1_000 for device in interleave(of_sizes([17, 7]))[:3]} == {0, 1}
    assert {device // 1_000 for device in interleave(of_sizes([7, 17]))[:3]} == {0, 1}


@settings(deadline=None)
@given(st.sets(st.integers(1, 10**9), max_size=200), SEEDS)
def test_a_place_is_a_permutation_without_overflow(numbers: set[int], seed: int) -> None:
    places = [place(number, seed) for number in numbers]
    assert len(set(places)) == len(numbers)
    assert all(0 <= each < PRIME for each in places)
    assert places == [place(number, seed) for number in numbers]


def test_seeds_choose_other_orders() -> None:
    orders = {tuple(sorted(range(1, 21), key=lambda number: place(number, seed))) for seed in range(1_000, 1_200)}
    assert len(orders) > 190
    first = Counter(min(range(1, 11), key=lambda number: place(number, seed * 7_919_191)) for seed in range(2_000))
    assert min(first[number] for number in range(1, 11)) > 120


def test_the_seed_is_of_the_release_and_the_query_alone() -> None:
    order = Order(release="steady@1.0.0", query="tag = a")
    assert seed_of(order) == seed_of(Order(release="steady@1.0.0", query="tag = a", waves=("1",), priority=9))
    assert seed_of(order) != seed_of(Order(release="steady@1.0.1", query="tag = a"))
    assert 0 <= seed_of(order) < 2**48


async def test_a_database_computes_the_same_place(database_url: str) -> None:
    numbers = [1, 2, 3, 48_271, 10**6, 10**9]
    table = Table("each_number", MetaData(), Column("number", BigInt, primary_key=True, autoincrement=False))
    database = await Database.open(database_url)
    async with database.writer.begin() as connection:
        await connection.run_sync(table.create)
        await connection.execute(table.insert(), [{"number": number} for number in numbers])
        for seed in (0, 1, 2**31 - 2, 2**31 - 1, 2**48 - 1):
            rows: Any = await connection.execute(select(table.c.number, place(table.c.number, seed)))
            assert {number: int(found) for number, found in rows} == {each: place(each, seed) for each in numbers}
    await database.close()


def test_small_kinds_are_taken_together() -> None:
    names = [f"kind-{number:03}" for number in range(MAX_STRATA + 10)]
    strata, of_kind = strata_of(names, [1 + (number == 70) for number in range(len(names))])
    assert (len(strata), strata[0], strata[-1]) == (MAX_STRATA, "kind-070", OTHERS)
    assert of_kind[70] == 0
    assert of_kind.count(MAX_STRATA - 1) == 11
    assert strata_of(["b", "a", "b"], [1, 2, 3]) == (["b", "a"], [0, 1, 0])


def test_a_kind_is_called_by_what_it_has() -> None:
    things = ("hardware", "attribute.site", "attribute.link")
    assert name_of(("quad-x4", "north", "lte"), things) == "quad-x4 / site=north / link=lte"
    assert name_of(("quad-x4", None, ""), things) == "quad-x4"
    assert name_of((), ()) == name_of((None,), ("attribute.site",)) == "-"


@pytest.mark.parametrize("thing", ["", "tag", "site", "attribute.", "attribute.a b", "Hardware"])
def test_what_waves_cannot_be_balanced_by_is_refused(thing: str) -> None:
    check_stratify(("hardware", "attribute.site/a"))
    with pytest.raises(BadInput) as refused:
        check_stratify(("hardware", thing))
    assert refused.value.code == "stratify_invalid"


def _totals(found: tuple[int, ...]) -> list[int]:
    return [sum(found[: index + 1]) for index in range(len(found))]

"""From candidates to waves: whatever they are, each comes once, in its own wave, and the kinds in their shares."""

from array import array
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sdx_hub.domain.rollout.arranging import NO_GROUP, Chosen, Found, arrange
from sdx_hub.domain.rollout.kinds import OTHERS
from sdx_hub.domain.rollout.waves import Group, parse_waves

KINDS = st.tuples(
    st.sampled_from([NO_GROUP, 0, 1]),
    st.booleans(),
    st.sampled_from(["", "north", "south"]),
    st.sampled_from(["rpi4", "quad-x4", "esp32"]),
)
WAVES = st.sampled_from(
    [
        ("tag = a", "tag = b", "100%"),
        ("1", "tag = a", "10%", "tag = b", "50%", "100%"),
        ("3", "tag = a", "7", "tag = b"),
        ("tag = a", "tag = b"),
    ]
)


def found(devices: list[tuple[Any, ...]]) -> Found:
    """Candidates 1, 2, 3, ...; the stratum is hardware and site."""
    candidates = Found()
    for number, (group, absent, site, hardware) in enumerate(devices, 1):
        kind = (group, absent, site, hardware, hardware, site or None)
        candidates.numbers.append(number)
        candidates.alike.append(candidates.kinds.setdefault(kind, len(candidates.kinds)))
    return candidates


def arranged(devices: list[tuple[Any, ...]], waves: tuple[str, ...], seed: int) -> Chosen:
    return arrange(found(devices), parse_waves(waves), ("hardware", "attribute.site"), seed)


@settings(deadline=None)
@given(st.lists(KINDS, max_size=60), WAVES, st.integers(0, 2**48 - 1))
def test_each_device_is_in_one_wave_or_left_out(
    devices: list[tuple[Any, ...]], waves: tuple[str, ...], seed: int
) -> None:
    chosen = arranged(devices, waves, seed)
    nowhere = chosen.left_out["no_wave"].devices if chosen.left_out else 0
    assert len(chosen.numbers) == len(set(chosen.numbers)) == len(devices) - nowhere
    assert sum(wave.size for wave in chosen.waves) == len(chosen.numbers)
    if waves[-1] == "100%":
        assert nowhere == 0
    of_group = {wave.label: index for index, wave in enumerate(w for w in parse_waves(waves) if isinstance(w, Group))}
    for wave, members in chosen.spans():
        groups = {devices[number - 1][0] for number in chosen.numbers[members.start : members.stop]}
        assert groups <= {of_group.get(wave.label, NO_GROUP)}
    assert arranged(devices, waves, seed).numbers == chosen.numbers


@settings(deadline=None)
@given(st.lists(KINDS, min_size=1, max_size=60), st.integers(0, 2**48 - 1))
def test_a_kind_is_said_of_each_and_counted_right(devices: list[tuple[Any, ...]], seed: int) -> None:
    chosen = arranged(devices, ("1", "tag = a", "50%", "tag = b", "100%"), seed)
    for number, alike in zip(chosen.numbers, chosen.alike, strict=True):
        _, absent, site, hardware = devices[number - 1]
        kind = chosen.kinds[alike]
        assert (kind.absent, kind.site, kind.hardware) == (absent, site, hardware)
        assert chosen.strata[kind.stratum - 1] == (f"{hardware} / site={site}" if site else hardware)
    for _, members in chosen.spans():
        assert sum(count for _, count in chosen.counted(members)) == len(members)


@settings(deadline=None)
@given(st.lists(KINDS, max_size=80), st.integers(0, 2**48 - 1))
def test_each_beginning_of_those_that_were_heard_is_balanced(devices: list[tuple[Any, ...]], seed: int) -> None:
    """And those that were not heard come after all of them."""
    pool = [(NO_GROUP, *rest) for _, *rest in devices]
    chosen = arranged(pool, ("100%",), seed)
    absent = [chosen.is_absent(index) for index in range(len(pool))]
    assert absent == sorted(absent)
    heard = absent.count(False)
    strata = [chosen.kinds[alike].stratum for alike in chosen.alike[:heard]]
    shares, taken = Counter(strata), Counter[int]()
    for length, stratum in enumerate(strata, 1):
        taken[stratum] += 1
        for each, devices_of in shares.items():
            assert abs(taken[each] * heard - devices_of * length) < heard


def test_nobody_at_all() -> None:
    chosen = arranged([], ("1", "100%"), 7)
    assert (chosen.numbers, chosen.strata, chosen.left_out) == (array("q"), [], {})
    assert [(wave.label, wave.size) for wave in chosen.waves] == [("100%", 0)]


def test_small_kinds_share_a_stratum() -> None:
    chosen = arranged([(NO_GROUP, False, f"s{number}", "rpi4") for number in range(70)], ("100%",), 7)
    assert (len(chosen.strata), chosen.strata[-1]) == (64, OTHERS)
    assert Counter(chosen.kinds[alike].stratum for alike in chosen.alike)[64] == 7

"""Members in their order, cut into waves: pure, and for a million of them some seconds of work."""

from array import array
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

from msgspec import Struct, field

from sdx_hub.domain.rollout.kinds import name_of, strata_of
from sdx_hub.domain.rollout.ordering import interleave, place
from sdx_hub.domain.rollout.waves import Group, Wave, sizes

NO_GROUP: Final = -1
"""Stands for the number of a group where a device is in none."""
SAMPLE: Final = 5
_INDEX_BITS: Final = 32
_INDEX_MASK: Final = 2**_INDEX_BITS - 1


class ChosenWave(Struct, frozen=True):
    """A wave that has devices.

    Attributes:
        label: As it was ordered.
        size: Devices.
    """

    label: str
    size: int


class Left(Struct):
    """Devices that match and are no members.

    Attributes:
        first: Numbers of some of them, the smallest ones.
    """

    devices: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        self.devices += 1
        if len(self.first) < SAMPLE or number < self.first[-1]:
            self.first = sorted([*self.first, number])[:SAMPLE]


class Alike(Struct, frozen=True):
    """Devices that are the same in everything that counts here.

    Attributes:
        stratum: Its number, from 1.
        site: Empty where they have none.
        absent: They have not been heard of lately.
    """

    stratum: int
    site: str
    hardware: str
    absent: bool


class Chosen(Struct):
    """The members in the order of their positions, which begin with 1.

    Attributes:
        waves: Only those that have devices, but always one.
        strata: Names, in the order of their numbers.
        numbers: Of the devices.
        alike: For each of them the index of what it is in `kinds`.
        left_out: By code.
        events_through: Id of the last device event that was there.
    """

    waves: list[ChosenWave]
    strata: list[str]
    kinds: list[Alike]
    numbers: "array[int]"
    alike: "array[int]"
    left_out: dict[str, Left]
    events_through: int

    def spans(self) -> Iterator[tuple[ChosenWave, range]]:
        """Each wave, with the indices of its members."""
        start = 0
        for wave in self.waves:
            yield wave, range(start, start + wave.size)
            start += wave.size

    def counted(self, members: range) -> Iterator[tuple[Alike, int]]:
        """How many of these members are of each kind."""
        for index, count in Tally(self.alike[members.start : members.stop]).items():
            yield self.kinds[index], count

    def is_absent(self, index: int) -> bool:
        return self.kinds[self.alike[index]].absent


class Found(Struct):
    """Candidates as they came from the database.

    Attributes:
        alike: For each of them the index of what it is in `kinds`: group, absent, site, hardware, what waves are
            balanced by.
    """

    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    alike: "array[int]" = field(default_factory=lambda: array("l"))
    kinds: dict[tuple[Any, ...], int] = field(default_factory=dict)
    left_out: dict[str, Left] = field(default_factory=dict)
    events_through: int = 0


def arrange(found: Found, waves: Sequence[Wave], stratify: Sequence[str], seed: int) -> Chosen:
    """Put the candidates in order and cut them into waves.

    Args:
        found: The candidates; those that no wave has a place for are noted in it as left out.
        waves: In their order.
        stratify: What the last things of each kind are: `hardware`, `attribute.NAME`.
        seed: Of the order within a stratum.
    """
    counted = Tally(found.alike)
    names = [name_of(kind, stratify) for _, _, _, _, *kind in found.kinds]
    strata, stratum_of = strata_of(names, [counted[index] for index in range(len(names))])
    ordered = _ordered(found, stratum_of, seed)
    groups = sum(isinstance(wave, Group) for wave in waves)
    own = [ordered.pop(group, array("q")) for group in range(groups)]
    pool = ordered.pop(NO_GROUP, array("q"))
    cut = sizes(waves, len(pool), list(map(len, own)))
    chosen, sized, of_group, of_pool = array("q"), [], iter(own), iter(pool)
    for wave, size in zip(waves, cut, strict=True):
        chosen.extend(next(of_group) if isinstance(wave, Group) else islice(of_pool, size))
        if size:
            sized.append(ChosenWave(wave.label, size))
    for index in of_pool:
        found.left_out.setdefault("no_wave", Left()).add(found.numbers[index])
    return Chosen(
        waves=sized or [ChosenWave(waves[-1].label, 0)],
        strata=strata,
        kinds=[
            Alike(stratum + 1, site, hardware, bool(absent))
            for stratum, (_, absent, site, hardware, *_) in zip(stratum_of, found.kinds, strict=True)
        ],
        numbers=array("q", map(found.numbers.__getitem__, chosen)),
        alike=array("l", map(found.alike.__getitem__, chosen)),
        left_out=found.left_out,
        events_through=found.events_through,
    )


def _ordered(found: Found, stratum_of: Sequence[int], seed: int) -> "dict[int, array[int]]":
    """Indices of the candidates of each group in their order: those that were heard lately before the others."""
    parts: dict[tuple[int, int], dict[int, list[int]]] = {}
    own: list[list[int]] = []
    for stratum, (group, absent, *_) in zip(stratum_of, found.kinds, strict=True):
        own.append(parts.setdefault((group, absent), {}).setdefault(stratum, []))
    for index, (number, alike) in enumerate(zip(found.numbers, found.alike, strict=True)):
        own[alike].append(place(number, seed) << _INDEX_BITS | index)
    ordered: dict[int, array[int]] = {}
    for (group, _), strata in sorted(parts.items()):
        in_order = [array("q", (packed & _INDEX_MASK for packed in sorted(part))) for _, part in sorted(strata.items())]
        ordered.setdefault(group, array("q")).extend(interleave(in_order))
    return ordered

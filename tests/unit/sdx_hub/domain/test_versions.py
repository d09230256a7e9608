from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_schemas.ids import VERSION_PATTERN
from sdx_hub.domain.versions import version_key

SEMVER = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
]
ASCENDING = [
    # Semantic Versioning 2.0.0, section 11, its own examples.
    [*SEMVER, "1.0.0"],
    ["1.0.0", "2.0.0", "2.1.0", "2.1.1"],
    # What it leaves open, and fleets have.
    ["3.9", "3.17", "3.17.1", "4"],
    ["1.0-rc9", "1.0-rc10", "1.0", "1.0+a", "1.0+b"],
    ["4.5.0-beta2", "4.5.0-BETA10", "4.5.0"],
    ["2024.6.1", "2024.06.2", "2024.11.0"],
    ["v1.15.0-beta1", "1.15.0", "V1.15.1"],
]


@pytest.mark.parametrize("versions", ASCENDING, ids=lambda versions: versions[0])
def test_older_to_newer(versions: list[str]) -> None:
    for older, newer in pairwise(versions):
        assert version_key(older) < version_key(newer), (older, newer)


@pytest.mark.parametrize("same", [("3.17", "3.17.0", "v3.17", "3.17.0.0"), ("1.0-rc1", "1.0.0-RC1"), ("01.2", "1.02")])
def test_spellings_of_the_same_version(same: tuple[str, ...]) -> None:
    assert len({version_key(version) for version in same}) == 1


@given(st.lists(st.from_regex(VERSION_PATTERN), min_size=2, max_size=6))
def test_every_two_versions_of_the_contract_compare(versions: list[str]) -> None:
    ordered = sorted(versions, key=version_key)
    for older, newer in pairwise(ordered):
        assert version_key(older) <= version_key(newer)

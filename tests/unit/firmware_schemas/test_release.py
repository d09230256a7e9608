"""The release contract: strict decoding, canonical bytes, and the TUF targets that a release is."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_schemas import canonical
from firmware_schemas.errors import InvalidManifest, InvalidName, LimitExceeded, SchemaError
from firmware_schemas.ids import check_name, check_version, counter_of_version, parse_release_id
from firmware_schemas.limits import MAX_MANIFEST_BYTES
from firmware_schemas.release import (
    Component,
    Constraint,
    Document,
    HealthCheck,
    ReleaseManifest,
    decode_manifest,
    encode_manifest,
    hardware_fits,
    targets_of,
)

names = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\Z")
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
components = st.builds(
    Component,
    name=names,
    type=st.sampled_from(["directory", "file"]),
    sha256=digests,
    length=st.integers(0, 10**9),
    hardware=st.lists(names, max_size=2).map(tuple),
    health=st.none() | st.builds(HealthCheck, argv=st.just(("./check",)), timeout_s=st.integers(1, 3600)),
)
manifests = st.builds(
    ReleaseManifest,
    product=names,
    version=st.just("1.2.3"),
    release_counter=st.integers(10, 2**53 - 1),
    revert_counter=st.none() | st.integers(0, 10),
    must_pass=st.booleans(),
    components=st.lists(components, min_size=1, max_size=4, unique_by=lambda part: part.name).map(tuple),
    requires=st.lists(st.builds(Constraint, product=names, min_counter=st.integers(0, 99)), max_size=2).map(tuple),
    notes=st.text(max_size=200),
)


def manifest(**changes: object) -> ReleaseManifest:
    part = Component("server", "directory", "a" * 64, 10)
    fields: dict[str, object] = {
        "product": "mavsdk",
        "version": "1.0.0",
        "release_counter": 1,
        "components": (part,),
    }
    return ReleaseManifest(**{**fields, **changes})  # type: ignore[arg-type]


@given(manifests)
def test_a_manifest_survives_its_own_bytes(original: ReleaseManifest) -> None:
    raw = encode_manifest(original)
    assert decode_manifest(raw) == original
    assert encode_manifest(decode_manifest(raw)) == raw


@given(manifests)
def test_targets_are_the_manifest_and_each_component_under_the_team(original: ReleaseManifest) -> None:
    targets = targets_of("nav", original)
    first = targets[0]
    assert first.path == f"nav/{original.product}/1.2.3/release.json"
    assert first.sha256 == hashlib.sha256(encode_manifest(original)).hexdigest()
    assert first.length == len(encode_manifest(original))
    assert [(t.custom.component, t.sha256, t.length) for t in targets[1:]] == [
        (part.name, part.sha256, part.length) for part in original.components
    ]
    assert {t.custom.release_counter for t in targets} == {original.release_counter}
    assert all(t.path.count("/") == 3 for t in targets)


def test_a_components_own_hardware_narrows_the_releases() -> None:
    narrow = Component("server", "directory", "a" * 64, 10, hardware=("cm4",))
    wide = Component("params", "file", "b" * 64, 10)
    by_component = {t.custom.component: t for t in targets_of("nav", manifest(components=(narrow, wide)))}
    assert by_component["server"].custom.hardware == ("cm4",)
    assert by_component["params"].custom.hardware == ("any",)


@pytest.mark.parametrize(
    "change",
    [
        {"components": ()},
        {"product": "../etc"},
        {"product": "A" * 5},
        {"product": "mavsdk\n"},
        {"version": "1.0\n"},
        {"schema": 2},
        {"release_counter": -1},
        {"revert_counter": -1},
        {"must_pass": 1},
        {"unknown_field": 1},
        {"hardware": []},
    ],
)
def test_a_manifest_outside_the_contract_is_refused(change: dict[str, object]) -> None:
    document = msgspec.to_builtins(manifest()) | change
    with pytest.raises(InvalidManifest):
        decode_manifest(msgspec.json.encode(document))


@pytest.mark.parametrize(
    "bad",
    [
        {"components": (Component("a", "file", "a" * 64, 1), Component("a", "file", "b" * 64, 1))},
        {"sbom": "missing"},
        {"release_counter": 5, "revert_counter": 6},
        {"documents": (Document("x", "a" * 64, 1), Document("x", "b" * 64, 1))},
        {"components": (Component("release.json", "file", "a" * 64, 1),)},
        {"components": (Component("doc.x", "file", "a" * 64, 1),)},
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InvalidManifest):
        decode_manifest(encode_manifest(manifest(**bad)))


def test_a_release_without_a_way_back_and_without_a_must_has_the_bytes_that_it_always_had() -> None:
    assert encode_manifest(manifest()) == (
        b'{"components":[{"length":10,"name":"server","sha256":"' + b"a" * 64 + b'","type":"directory"}],'
        b'"product":"mavsdk","release_counter":1,"version":"1.0.0"}'
    )


@pytest.mark.parametrize(("revert", "floor"), [(None, 5), (5, 5), (2, 2), (0, 0)])
def test_the_floor_of_a_release_is_its_revert_counter_or_its_own(revert: int | None, floor: int) -> None:
    assert decode_manifest(encode_manifest(manifest(release_counter=5, revert_counter=revert))).floor == floor


def test_a_manifest_above_its_size_bound_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(LimitExceeded):
        decode_manifest(b"[" * (MAX_MANIFEST_BYTES + 1))


def test_canonical_bytes_have_sorted_keys_and_no_spaces() -> None:
    assert canonical.encode({"b": [1, {"d": 1, "c": "ä"}], "a": None}) == b'{"a":null,"b":[1,{"c":"\xc3\xa4","d":1}]}'


def test_a_float_has_no_canonical_form() -> None:
    with pytest.raises(SchemaError):
        canonical.encode({"deep": [{"x": 1.5}]})


@pytest.mark.parametrize("bad", ["", "A", "a/b", "..", "a..b", ".a", "a-", "x" * 65, "x" * 65536, "ä", "a b", "a\n"])
def test_a_name_that_could_climb_or_confuse_is_refused(bad: str) -> None:
    with pytest.raises(InvalidName) as caught:
        check_name(bad, "product")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("bad", ["", "1/2", "..", "1..2", "v" * 65, "1.0 ", "1.0\n"])
def test_a_version_that_could_climb_is_refused(bad: str) -> None:
    with pytest.raises(InvalidName):
        check_version(bad)


def test_release_ids_split_at_the_at_sign() -> None:
    assert parse_release_id("mavsdk@3.1.0-rc.1") == ("mavsdk", "3.1.0-rc.1")
    with pytest.raises(InvalidName):
        parse_release_id("mavsdk-3.1.0")


@given(st.tuples(*[st.integers(0, 999)] * 3), st.tuples(*[st.integers(0, 999)] * 3))
def test_the_counter_orders_plain_versions_as_people_do(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    counters = [counter_of_version(".".join(map(str, version))) for version in (a, b)]
    assert None not in counters
    assert (counters[0] < counters[1]) == (a < b)  # type: ignore[operator]


def test_a_version_without_plain_numbers_implies_no_counter() -> None:
    assert counter_of_version("2026-11-24") is None
    assert counter_of_version("1.2.3-rc.1") is None


def test_hardware() -> None:
    assert hardware_fits(("any",), "rpi-cm4")
    assert hardware_fits(("rpi-cm4", "rpi-5"), "rpi-5")
    assert not hardware_fits(("rpi-cm4",), "rpi-5")


def test_a_constraint_needs_the_product_to_be_there() -> None:
    constraint = Constraint("base", 2, 5)
    assert [constraint.matches(counter) for counter in (None, 1, 2, 5, 6)] == [False, False, True, True, False]

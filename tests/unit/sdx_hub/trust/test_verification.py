"""What the hub refuses of metadata that people signed, one rule after the other."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Delegations, Metadata, Root, Snapshot, TargetFile, Targets

from firmware_schemas.limits import MAX_ROOT_BYTES
from sdx_hub.domain.errors import BadInput, ConflictError, NotFound, TrustError
from sdx_hub.trust import rotation, verification
from sdx_hub.trust.rotation import KeyChange
from sdx_hub.trust.verification import Incoming
from tests.support.people import People, Person, hold_ceremony, sign

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def people(tmp_path: Path) -> People:
    return hold_ceremony(tmp_path / "ceremony", NOW, "nav", "pay")


def first(people: People, role: str) -> Any:
    return Metadata[Any].from_file(str(people.folder / "image" / f"1.{role}.json")).signed


def incoming(raw: bytes) -> Incoming:
    return verification.read(raw, "file")


def signed_root(people: People, change: Callable[[Root], object], role: str = "root") -> Incoming:
    root = rotation.next_root(first(people, "root"), "root", KeyChange(), NOW).signed
    change(root)
    return incoming(sign(Metadata(root), people[role][:2]))


def refuse_root(people: People, file: Incoming, code: str) -> None:
    with pytest.raises((TrustError, ConflictError)) as refused:
        verification.verify_root("image", first(people, "root"), file, NOW)
    assert refused.value.code == code


def test_a_good_root_is_returned_with_its_bytes(people: People) -> None:
    file = signed_root(people, lambda root: None)
    verified = verification.verify_root("image", first(people, "root"), file, NOW)
    assert (verified.role, verified.signed.version, verified.raw) == ("root", 2, file.raw)


def test_expiries_of_a_root(people: People) -> None:
    def lasts(days: float) -> Callable[[Root], object]:
        return lambda root: setattr(root, "expires", NOW + timedelta(days=days))

    refuse_root(people, signed_root(people, lasts(0)), "expiry_refused")
    refuse_root(people, signed_root(people, lasts(400)), "expiry_refused")
    verification.verify_root("image", first(people, "root"), signed_root(people, lasts(300)), NOW)


def test_a_root_that_switches_consistent_snapshots_off(people: People) -> None:
    refuse_root(
        people, signed_root(people, lambda root: setattr(root, "consistent_snapshot", False)), "metadata_invalid"
    )


def test_a_root_larger_than_clients_read(people: People) -> None:
    file = signed_root(people, lambda root: None)
    refuse_root(people, incoming(file.raw + b" " * MAX_ROOT_BYTES), "metadata_invalid")


def test_versions_without_a_gap(people: People) -> None:
    for version in (1, 3):
        file = signed_root(people, lambda root, version=version: setattr(root, "version", version))  # type: ignore[misc]
        refuse_root(people, file, "metadata_outdated")


def test_one_key_under_two_ids_does_not_count_twice(people: People) -> None:
    """TUF lets a key have any id; then one person alone would reach the threshold."""
    holder = people["root"][0]
    alias = SSlibKey("ab" * 32, holder.public.key.keytype, holder.public.key.scheme, dict(holder.public.key.keyval))
    file = signed_root(people, lambda root: root.add_key(alias, "root"))
    refuse_root(people, file, "key_twice")


def test_a_key_of_another_scheme_that_is_the_same_key(people: People) -> None:
    holder = people["root"][0].public.key
    twin = SSlibKey("cd" * 32, "rsa", "rsassa-pss-sha256", dict(holder.keyval))
    refuse_root(people, signed_root(people, lambda root: root.add_key(twin, "targets")), "key_twice")


def team(people: People, change: Callable[[Targets], object] = lambda team: None, by: str = "team-nav") -> Incoming:
    following = rotation.refreshed_team(first(people, "team-nav"), NOW)
    change(following.signed)
    return incoming(sign(following, people[by][:2]))


def refuse_team(people: People, file: Incoming, code: str, role: str = "team-nav") -> None:
    with pytest.raises((TrustError, ConflictError, NotFound)) as refused:
        verification.verify_team(first(people, "targets"), role, first(people, "team-nav"), file, NOW)
    assert refused.value.code == code


def test_a_good_team(people: People) -> None:
    file = team(people)
    verified = verification.verify_team(first(people, "targets"), "team-nav", first(people, "team-nav"), file, NOW)
    assert (verified.role, verified.signed.version) == ("team-nav", 2)


def test_what_a_team_may_not(people: People) -> None:
    other = TargetFile(1, {"sha256": "00" * 32}, "pay/a/1/x")
    key = people["team-nav"][0].public.key
    refuse_team(people, team(people, lambda team: team.targets.update({"pay/a/1/x": other})), "targets_changed")
    delegates = Delegations({key.keyid: key}, {})
    refuse_team(people, team(people, lambda team: setattr(team, "delegations", delegates)), "targets_changed")
    refuse_team(people, team(people, lambda team: setattr(team, "expires", NOW)), "expiry_refused")
    too_long = NOW + timedelta(days=182)
    refuse_team(people, team(people, lambda team: setattr(team, "expires", too_long)), "expiry_refused")
    refuse_team(people, team(people, by="team-pay"), "below_threshold")
    refuse_team(people, team(people), "role_unknown", role="team-nobody")
    root = people.folder / "image" / "1.root.json"
    refuse_team(people, incoming(root.read_bytes()), "metadata_invalid")


def test_a_changed_byte_is_no_signature(people: People) -> None:
    raw = team(people).raw.replace(b'"version":2', b'"version":3')
    with pytest.raises(TrustError) as refused:
        current = first(people, "team-nav")
        current.version = 2
        verification.verify_team(first(people, "targets"), "team-nav", current, incoming(raw), NOW)
    assert refused.value.code == "below_threshold"
    assert refused.value.extra["signed_by"] == []


def test_the_same_signature_twice(people: People) -> None:
    document = json.loads(sign(rotation.refreshed_team(first(people, "team-nav"), NOW), people["team-nav"][:1]))
    document["signatures"] *= 2
    with pytest.raises(TrustError) as refused:
        incoming(json.dumps(document).encode())
    assert refused.value.code == "metadata_invalid"


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"version":2', b'"version":2.5'), (b'"version":2', b'"version":true'), (b'"nav/', b'"\\ud800nav/')],
)
def test_values_that_no_signature_can_be_over(people: People, old: bytes, new: bytes) -> None:
    path = "nav/a/1/x"
    raw = team(people, lambda team: team.targets.update({path: TargetFile(1, {"sha256": "00"}, path)})).raw
    assert old in raw
    with pytest.raises(TrustError) as refused:
        incoming(raw.replace(old, new))
    assert refused.value.code == "metadata_invalid"


def test_a_file_is_recognised_by_who_signed_it(people: People) -> None:
    delegator = first(people, "targets")
    current = {role: first(people, role) for role in ("team-nav", "team-pay", "fleet-config")}
    for role, held in current.items():
        file = incoming(sign(rotation.refreshed_team(held, NOW), people[role][:2]))
        assert verification.identify_team(delegator, current, file, []) == role


def test_a_file_that_nobody_signed_enough_names_the_closest_team(people: People) -> None:
    delegator, current = first(people, "targets"), {"team-pay": first(people, "team-pay")}
    file = incoming(sign(rotation.refreshed_team(current["team-pay"], NOW), people["team-pay"][:1]))
    with pytest.raises(TrustError) as refused:
        verification.identify_team(delegator, current, file, [])
    assert refused.value.extra["role"] == "image/team-pay"


def test_the_same_people_in_two_teams(people: People) -> None:
    """Content and version decide; where they cannot, the one that needs metadata is meant, or nobody guesses."""
    members = people["team-nav"]
    change = KeyChange(add=tuple(person.public for person in members))
    delegator = rotation.next_targets(first(people, "targets"), "team-twin", change, NOW).signed
    nav, twin = first(people, "team-nav"), rotation.first_team(NOW).signed
    path = "nav/a/1/x"
    nav.targets[path] = TargetFile(1, {"sha256": "00" * 32}, path)
    current = {"team-nav": nav, "team-twin": twin}
    with_content = incoming(sign(rotation.refreshed_team(nav, NOW), members))
    assert verification.identify_team(delegator, current, with_content, []) == "team-nav"
    empty = incoming(sign(rotation.refreshed_team(twin, NOW), members))
    assert verification.identify_team(delegator, current, empty, ["team-twin"]) == "team-twin"
    with pytest.raises(BadInput) as refused:
        verification.identify_team(delegator, current, empty, [])
    assert refused.value.code == "role_ambiguous"


def test_the_root_must_be_of_the_kind_that_is_asked_for(people: People) -> None:
    snapshot = Metadata(Snapshot(version=2, expires=NOW + timedelta(days=1)))
    refuse_root(people, incoming(sign(snapshot, people["root"][:2])), "metadata_invalid")
    assert Person.named("x").keyid != Person.named("x").keyid
